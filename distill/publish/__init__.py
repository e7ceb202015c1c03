"""What a run made, sent to the Hub and brought back from it: cards, refusals, files, transport."""
