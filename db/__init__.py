"""The registry: schema, migrations, the only reads (:mod:`db.reads`) and the only writes (:mod:`db.writes`)."""
