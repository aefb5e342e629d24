"""The commands that concern clusters: `pit-ray submit` and `pit-ray cluster check`. Each imports what it needs when it
runs, as in actors/cli.py."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from pit_ray.errors import ConfigError

cluster = typer.Typer(help="Clusters: files of ray up and KubeRay.", no_args_is_help=True, rich_markup_mode=None)


def submit(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A shipped recipe, or the path of a YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Replace single values of the recipe.")
    ] = None,
    address: Annotated[
        str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="Of the cluster's dashboard.")
    ] = "http://127.0.0.1:8265",
    include: Annotated[
        list[Path] | None, typer.Option(help="Upload this file or folder too; may be given several times.")
    ] = None,
    wait: Annotated[bool, typer.Option(help="Follow the job to its end; Ctrl-C then asks whether to stop it.")] = True,
    grow: Annotated[
        bool, typer.Option("--grow", help="The cluster may start more nodes: do not ask for room now.")
    ] = False,
) -> None:
    """Run a recipe as a job of a cluster. On a run that exists, the run is resumed.

    Uploads pit-ray's source, where this is a checkout, the recipe's file and what --include names; nothing else.
    The exit code is that of `pit-ray train` on the cluster.

    \b
    Examples:
      pit-ray submit hh run=/shared/runs/hh
      pit-ray submit mine.yaml run=/shared/runs/mine --include pairs.jsonl --grow
    """
    from actors.cluster.package import collect
    from actors.cluster.submit import check_alone, check_room, connect, find_room, follow
    from actors.cluster.submit import submit as submit_job
    from actors.ray_session import check_auth_mode, check_run
    from pit_ray.config import load_config

    config = load_config(recipe, overrides or ())
    check_run(config)
    check_auth_mode()
    package = collect(Path.cwd(), recipe, include or ())
    package.check()
    package.check_paths(config, Path.cwd())
    typer.echo(f"to upload: {package.describe()}")
    client = connect(address)
    check_alone(client, config.run)
    room = find_room(address)
    typer.echo(f"cluster at {address}: {room}")
    if not grow:
        check_room(config, room)
    job = submit_job(client, package, [recipe, *(overrides or ())], config)
    typer.echo(f"job {job}: {recipe} in {config.run}")
    if not wait:
        return
    try:
        code = follow(client, job, lambda text: typer.echo(text, nl=False))
    except KeyboardInterrupt:
        if sys.stdin.isatty() and typer.confirm("\nStop the job? It can go on from its last checkpoint later."):
            client.stop_job(job)
            typer.echo(f"stopping {job}; the same command resumes the run")
        else:
            typer.echo(f"\n{job} goes on; follow it with: ray job logs -f {job}")
        raise typer.Exit(130) from None
    raise typer.Exit(code)


@cluster.command("check")
def check_cluster(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Of ray up, or a RayCluster or RayJob of KubeRay.")],
    recipe: Annotated[
        str | None, typer.Argument(metavar="[RECIPE]", help="Show where the actors of this recipe would stand.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Replace single values of the recipe.")
    ] = None,
) -> None:
    """Tell what is wrong with a cluster file, and where each actor of a recipe would stand on it.

    Looks beyond Ray's own check: what is not filled in, keys that Ray would drop, missing files, unknown machines,
    open ports. Starts nothing and asks no cloud.

    \b
    Examples:
      pit-ray cluster check clusters/a100.yaml
      pit-ray cluster check clusters/onprem.yaml hh actors.learner.ranks=4
    """
    from actors.cluster.check import UNCHECKED, describe_fit, describe_nodes, read_cluster
    from pit_ray.config import load_config

    config = load_config(recipe, overrides or ()) if recipe is not None else None
    nodes, faults = read_cluster(file, Path.cwd())
    said = f"{file}, its nodes at most:\n{describe_nodes(nodes)}" if nodes else ""
    if nodes and config is not None:
        from actors.compose import model_size

        try:
            said = f"{recipe} on {file}:\n{describe_fit(config, nodes, model_size)}"
        except ConfigError as error:
            faults.append(f"{recipe}: {error}")
    elif config is not None and not faults:
        faults.append(f"{file}: metadata.node does not say what a machine has, so {recipe} could not be laid out")
    if said:
        typer.echo(said)
    for fault in faults:
        typer.secho(fault, fg="red", err=True)
    well = "nothing wrong found" + (f", but {UNCHECKED}" if UNCHECKED in said else "")
    typer.echo(f"{len(faults)} things to mend" if faults else well)
    raise typer.Exit(2 if faults else 0)
