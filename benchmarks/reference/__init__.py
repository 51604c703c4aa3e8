"""The paper's way, written down plainly and then left alone: what `make bench` measures against.

"Encode Me If You Can" (arXiv 2508.07748), as its released code goes about it: pandas groups the tables into Python lists per user, a
Dataset hands out tensors user by user, batches are padded to their longest user, every head is computed at every position, float32.
**Frozen**: a measuring stick that gets better with what it measures says nothing, so it changes only where it is wrong, never for speed;
the stored results of `benchmarks/results` then no longer hold. It imports nothing of habitus.

One thing is not the released code's: its encoder reads the padding, so that a user's vector depends on the company. Here every layer's
state is taken at the user's last real token. The padded steps are still computed and paid for, as there; but what is learned, is what
Habitus learns, so that losses and scores compare. Others of its slips that change what is learned (records changed by being read, "most
frequent" that does nothing on pandas 3) are not repeated either.
"""
