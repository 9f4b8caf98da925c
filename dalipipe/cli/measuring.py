"""`dalipipe bench`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from dalipipe.cli.app import Failure, app, escaped, new_console, plain_errors
from dalipipe.cli.inputs import device_of, open_one
from dalipipe.cli.options import BatchSize, Data, Device, Size


@app.command()
def bench(
    data: Data,
    size: Size = 224,
    batch_size: BatchSize = 128,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Cores that loaders may use, and are to keep busy.", show_default="all")
    ] = None,
    pictures: Annotated[
        int, typer.Option(min=1, help="Files at most that are read, evenly spaced in DATA, again and again.")
    ] = 5000,
    images: Annotated[int, typer.Option(min=1, help="Pictures a round, at least.")] = 2000,
    rounds: Annotated[int, typer.Option(min=1, help="Counted rounds of each loader.")] = 5,
    sweep: Annotated[
        bool, typer.Option("--sweep/--no-sweep", help="Try each loader's settings first, and keep its best.")
    ] = True,
    only: Annotated[
        str | None, typer.Option(help="Loaders to compare with, by semicolons: 'DALI; timm'.", show_default="all")
    ] = None,
    device: Device = "auto",
    png: Annotated[Path | None, typer.Option("--png", help="Draw the figures into this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all figures as JSON, not the table.")] = False,
) -> None:
    """Compare this loader with torch's, DALI, FFCV, SPDL, LitData, WebDataset and timm, on your pictures.

    Each runs in processes of its own; what it makes is compared with torchvision's first. A library that wants another
    Python is given one by FFCV_PYTHON, SPDL_PYTHON and so on, or all of them by PEERS_PYTHON.
    """
    with plain_errors():
        from dalipipe import cores
        from dalipipe.bench import OURS, OutputsDifferError, compare, work_of
        from dalipipe.bench.report import draw, show
        from dalipipe.sources import ImageFolder

        source = open_one(data)
        if not isinstance(source, ImageFolder):
            raise ValueError(f"the loaders to compare with read class folders, and {data} is none")
        work = work_of(
            source,
            pictures,
            size_px=size,
            batch_size=batch_size,
            cores=workers or cores.threads(),
            device=str(device_of(device)),
        )
        names = None if only is None else [name.strip() for name in only.split(";") if name.strip()]
        with new_console(stderr=True).status("comparing outputs") as status:
            try:
                found = compare(
                    work,
                    names,
                    images=images,
                    rounds=rounds,
                    sweep=sweep,
                    progress=lambda words: status.update(escaped(words)),
                )
            except OutputsDifferError as error:
                raise Failure(str(error)) from error
        if as_json:
            from dalipipe.bench import machine

            print(json.dumps({**found.summary(), "machine": machine()}, indent=1))
        else:
            show(found, new_console())
        if png is not None:
            draw(found, png, title=f"{len(work.paths):,} pictures in {data}, {work.device}, {work.cores} cores")
        if OURS in found.failed:
            raise Failure(f"dalipipe failed: {found.failed[OURS]}")
