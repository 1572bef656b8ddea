"""The second suite of runs, written without a look at the rules, and then used for tuning."""
