"""HTTP in and out: who calls, what is asked, how it is answered. Decides nothing itself."""
