"""The page of a sweep: one static HTML file that shows a sweep while it runs.

curves    success of every run so far, from the run files, remembered between two looks
facts     what the page tells, as plain data: counts, hours, nodes, rows, what to type next
charts    small SVG drawings
write     facts -> page/index.html, by page.html
serve     the page on 127.0.0.1, behind a token
"""
