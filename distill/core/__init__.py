"""The bottom layer, never torch: errors, settings, plug-ins, records, ledger, run directory."""
