"""Triggers: what starts runs. Cron expressions and webhook signatures, as pure functions of their arguments."""
