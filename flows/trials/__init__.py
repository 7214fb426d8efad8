"""Trials: networks trained from an initialisation over a grid, chosen on validation, tested once.

The stages finetune, transfer and detect and the experiments of the paper are made of them. `trial`
says what a trial is, `images` what it sees, `initialise` and `networks` where it starts, `run`
carries it out, `statistics` compares.
"""
