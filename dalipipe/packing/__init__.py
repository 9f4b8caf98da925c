"""Packing: a data set stored as training reads it, in shards that are whole or not there.

`run` plans and puts together, `shard` writes one shard; `records` prepares what goes into it, `members` makes files of
that; `settings` is what a pack is to be; `cluster` has shards written on many machines. `text` packs texts. `folder` is
where packs are made, `report` what is told of them.
"""

from dalipipe.packing.report import PackReport, Progress
from dalipipe.packing.run import pack
from dalipipe.packing.settings import PackMismatchError

__all__ = ["PackMismatchError", "PackReport", "Progress", "pack"]
