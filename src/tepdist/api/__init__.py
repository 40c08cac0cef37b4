"""What users call; `tepdist` itself re-exports it."""
