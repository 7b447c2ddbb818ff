"""jq in workflow documents: finding it, checking it and evaluating it."""
