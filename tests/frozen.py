"""Imported last by the process that trainings are forked from: its objects are no garbage of theirs."""

import gc

gc.collect()
gc.freeze()  # a collection in a forked process would look at all of them, and copy every page that holds one
