"""Many networks on many data sets: what is trained, in processes that may fail, stop and go on."""
