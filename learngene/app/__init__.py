"Command line, queue of runs, report and benchmark; written by hand, never imported by the library."
