"""How everything that people look at looks: one style sheet for the service's page and for all reports.

`look.css` has the colours of both schemes, and how text, links, tables, notes and cards look. The service
sends it as a file beside its own (serving/app/static/style.css); reports carry it inside
(serving/reports/templates/base.html).
"""

from pathlib import Path

LOOK = (Path(__file__).parent / "look.css").read_text(encoding="utf-8")
