"""Turn a sweep's Arrow tables into tables, verdicts and figures; imports neither torch nor ray."""
