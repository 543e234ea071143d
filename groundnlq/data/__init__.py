"""Room 1: annotation files, features and tokens become batches."""
