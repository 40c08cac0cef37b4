"""A client that steps and then waits to be killed.

python abandoned_client.py HOST:PORT
"""

import sys
import time

import jax.numpy as jnp
import numpy as np

from tepdist.service.client import connect

session = connect(sys.argv[1], ttl_s=1.0)
step = session.parallelize(lambda w, x: (w + x.sum(), w.sum()), level="O1")
state, loss = step(session.put(jnp.ones(2**20)), np.ones(4, np.float32))
print(float(loss), flush=True)
time.sleep(600)
