"""What is written from docs/benchmarks.json: docs/benchmarks.md, its pictures, and the figures of README.md.

- benchmark_page: the page
- benchmark_pictures: its pictures
- figure_tables: figures of any structure as tables
- readme_figures: the tables of README.md's section "How fast"
"""
