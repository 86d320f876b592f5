"""Sizes that were chosen by measurement on CPU, in one place.

None of them changes what is computed, only in how large pieces. Figures are of two cores
with AVX-512 and jax 0.10; ``python experiments/bench_train_step.py`` measures them again.
"""

# Bytes of one edge array per micro-batch of a training step. The backward pass needs about
# ten such arrays, which then stay in cache: steps are fastest between 0.1 and 0.3 MB. One
# on 64 INRs (2-32-32-1, features of width 64) takes 110 ms in micro-batches of 2 to 8
# networks, and 225 ms in one pass.
EDGE_ARRAY_BYTES = 250_000

# Edges per chunk of a packed batch: long enough for efficient matrix products, short
# enough for the cache. Models whose edge arrays are wide take half of it.
CHUNK_EDGES = 8192

# Rows per partial product of a weight gradient: short enough that both operands stay in
# the first cache levels, long enough for the vector units. Over 71,680 rows of width 64 the
# product that automatic differentiation writes runs at 67 GFLOP/s, its parts at 154.
GRADIENT_ROWS = 320

# INRs fitted at once: their arrays stay in one core's cache on CPU; an accelerator needs
# many networks to be busy.
INR_BATCH_CPU = 8
INR_BATCH_ACCELERATOR = 1024

# Classifiers of a zoo that an accelerator trains at once; on CPU one per core.
CLASSIFIER_BATCH_ACCELERATOR = 64

# Networks whose weights are preprocessed by one call of a compiled program.
PREPROCESSING_BATCH = 64

# Rows of a zoo that are read from a file and processed together.
TABLE_ROWS = 4096

# Bytes of a split's weights up to which they are copied to every device once, instead of
# batch by batch.
DEVICE_TABLE_BYTES = 2 << 30
