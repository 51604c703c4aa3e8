"""`make bench`: speed against the frozen reference, then the counts; under ten minutes on two cores."""

from benchmarks import speed, tables

speed.main()
tables.main()
