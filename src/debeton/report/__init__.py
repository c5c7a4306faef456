"""Reports over finished runs.

records: reads run folders.
runs: groups runs into settings, with statistics over seeds.
same_data: runs on different data of one name, kept apart.
tables: the numbers as tables.
figures: the figures.
pictures: images that a run got wrong.
page: the HTML page.
write: the whole report.
console: the tables on the console.
kind: reports of one table and one figure.
amplifier: such a report, on methods that search for bias-conflicting rows.
transfer: such a report, on triggers after transfer learning.
"""
