"""Turn a sweep's Arrow tables into tables, verdicts and figures; imports neither torch nor ray."""

import pwmray as pwmray  # before what takes long: it says in a word that Ctrl-C came meanwhile
