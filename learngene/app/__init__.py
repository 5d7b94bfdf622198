"The application around the library: command line, queue of runs, report and benchmark. Written by hand; the library never imports it."
