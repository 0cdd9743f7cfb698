"""`ray start`, kept to loopback: the head on 127.0.0.1, every other node on an address of its own in 127.0.0.0/8.

Ray turns a loopback address into the machine's outward one, so that other machines find the node; here none shall.
"""

import sys

from ray._private import ray_constants, services

if "--head" in sys.argv:
    ray_constants.ENABLE_RAY_CLUSTER = False
else:
    services.resolve_ip_for_localhost = lambda host: host

from ray.scripts.scripts import main

if __name__ == "__main__":
    main()
