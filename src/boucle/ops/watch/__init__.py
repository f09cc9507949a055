"""Watch: what comes in and out of a service, against the rows its model was trained on. Nothing has to be configured.

The reference is found by lineage: service -> model -> the rows it was trained on, or else the datasets it derives from, or
else the first thousand rows that were asked. What was read of the log stays read: its counts are kept in the service's
folder, in chunks of equal size that are merged when there are many, and each look reads on from there.
"""

from boucle.ops.watch.look import ANOMALY, CHECK, Watched, watch
from boucle.ops.watch.reference import FIRST, PREDICTION

__all__ = ["ANOMALY", "CHECK", "FIRST", "PREDICTION", "Watched", "watch"]
