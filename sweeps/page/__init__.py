"""The page of a sweep: one static HTML file that shows a sweep while it runs.

curves    success of every run so far, from the run files, kept between two looks
facts     the content of the page as plain data: counts, hours, nodes, rows
law       the scaling law so far
charts    small SVG drawings
write     facts -> page/index.html, with the template page.html
keep      writes the page once or repeatedly
serve     the page on 127.0.0.1, behind a token
"""
