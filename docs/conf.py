"Sphinx reads this; `docs/build.py` writes the pages that are computed and calls it."

project = "learngene"
author = copyright = "The learngene developers"
extensions = ["myst_nb"]
html_theme = "furo"
html_title = "learngene"
html_copy_source = False
nb_execution_mode = "off"  # the notebooks' outputs are committed, and the tests execute them
nb_merge_streams = True
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
templates_path = []
# notebooks of one page each: no warning that a first heading is of level 2, or that a lexer does not know a magic
suppress_warnings = ["myst.header", "misc.highlighting_failure", "mystnb.unknown_mime_type"]
