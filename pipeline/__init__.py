"""Everything between a corpus and a finished dataset."""
