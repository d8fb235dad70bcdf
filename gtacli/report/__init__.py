"""The report: several runs on one self-contained page.

`runs` reads the folders, `groups` finds what differs between them and takes means over seeds;
`looking` and `testing` load the models for what they attend to and what they answer; `tables` and
`page` write the HTML. What moves on the page is in static/*.js: curves (with uPlot), maps, answers.
"""
