"""The first samples of a configuration's shards, for commands that only try it."""

from __future__ import annotations

from avrt.data.inputs.batch import OmniBatch, collate
from avrt.data.inputs.media_inputs import MediaInputs
from avrt.data.inputs.preprocessor import Preprocessor
from avrt.data.loading.datamodule import AVDataModule
from avrt.data.shards.members import decode_members
from avrt.errors import AvrtError, BadSampleError


def first_batch(data: AVDataModule, inputs: MediaInputs, count: int) -> OmniBatch:
    """The first readable samples of the training shards, or of the others where those are not given.

    Raises:
        AvrtError: If there are none.
    """
    locations = [*(source.shards for source in data.sources), *(f for f in data.folders.values() if f is not None)]
    if not locations:
        raise AvrtError("no shards given", where="data.train", remedy="add --data.train DIR")
    shards = data.open(locations[0])
    preprocessor = Preprocessor(inputs, data.prompt)
    rows: list[OmniBatch] = []
    for index in range(len(shards)):
        try:
            rows.append(preprocessor.row(*decode_members(shards.read(index))))
        except BadSampleError as error:
            print(f"left out: {error}")
        if len(rows) == count:
            break
    if not rows:
        raise AvrtError("no sample could be read", where=locations[0])
    return collate(rows)
