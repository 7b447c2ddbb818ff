"""`taskforge doctor`: one file for each subject of the checks; `finding` lists every code."""
