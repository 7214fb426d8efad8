"""Trials: networks trained from an initialisation over a grid, chosen on validation, tested once.

The stages finetune and transfer and the experiments of the paper are made of them. `plan` makes
them of an entry of the catalogue, `spec` says what one is, `images` what it sees, `initialise` and
`weights` where it starts, `execution` carries it out, `statistics` compares.
"""
