"""The hospital's daily work in a browser, on the hospital's own machine: the same functions as the commands, behind a log-in of its own."""
