"""`distill view`: a local page to read traces and answers, with full-text search. Read only, loopback only."""
