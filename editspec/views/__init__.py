"""Views for people: the report of a build, charts, tables of checks."""
