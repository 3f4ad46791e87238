"""Looks for what would stop a run before it costs anything."""

import ast
import posixpath
import re
import shlex
import sys
from collections.abc import Callable, Iterator

from anchortrain.errors import UserError
from tpu_scripts.accelerators import accelerator_type, names
from tpu_scripts.context import Context
from tpu_scripts.gcloud import GcloudError
from tpu_scripts.reaping import survey

Check = tuple[str, bool, str]  # what was looked at, whether it is right, details or the mend


def examine(context: Context) -> Iterator[Check]:
    """One entry for each check, in the order in which they matter."""
    tpu, gcloud = context.spec.tpu, context.gcloud
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    yield "Python", sys.version_info >= (3, 11), f"{python}, 3.11 or newer is needed"
    yield _try("account", lambda: _account(context))
    services = [
        "tpu.googleapis.com",
        "storage.googleapis.com",
        *(["secretmanager.googleapis.com"] if tpu.secrets else []),
    ]
    yield _try("services", lambda: _services(context, services))
    yield _try("bucket", lambda: region_of_bucket(context))
    yield _try("data", lambda: data_in_bucket(context))
    for zone in tpu.zones:
        kind = accelerator_type(context.spec.where)

        def offered(zone: str = zone, kind: str = kind) -> str:
            args = ["compute", "tpus", "accelerator-types", "list", f"--project={tpu.project}", f"--zone={zone}"]
            types = [entry.get("type") or entry["name"].rpartition("/")[2] for entry in gcloud.json(args) or []]
            if kind not in types:
                raise UserError(f"{zone} does not offer {kind}", mend="choose another zone")
            return kind

        yield _try(zone, offered)
    for secret in sorted(set(tpu.secrets.values())):
        args = ["secrets", "describe", secret, f"--project={tpu.project}"]
        yield _try(f"secret {secret}", lambda args=args: str((gcloud.json(args) or {}).get("name", "")))
    yield _try("machines", lambda: _machines(context))


def region_of_bucket(context: Context) -> str:
    """Where the bucket lies. Raises UserError when a zone is elsewhere and TpuConfig.allow_cross_region is False."""
    tpu = context.spec.tpu
    found = context.gcloud.json(["storage", "buckets", "describe", f"gs://{tpu.bucket}"]) or {}
    location = str(found.get("location", "")).lower()
    for zone in tpu.zones:
        region = zone.rpartition("-")[0]
        continent = {"europe": "eu"}.get(region.partition("-")[0], region.partition("-")[0])
        near = location in (region, continent)  # us-east5, or the multi-region us
        if not near and location and not tpu.allow_cross_region:
            raise UserError(
                f"gs://{tpu.bucket} lies in {location}, {zone} does not",
                where="TpuConfig.zones",
                mend="traffic would be slow and paid for; TpuConfig.allow_cross_region = True allows it",
            )
    return location


def data_in_bucket(context: Context) -> str:
    """What is trained on. Raises UserError when the bucket lacks it: workers would find that out, paid for."""
    prefix, tpu = "DataConfig.train = ", context.spec.tpu
    [line] = [one for one in context.spec.experiment.splitlines() if one.startswith(prefix)]
    paths = list(ast.literal_eval(line.removeprefix(prefix)))
    for path in paths:
        inside = path.removeprefix(f"{tpu.mount}/{tpu.bucket}/")
        if inside.startswith("/"):
            continue  # of the machine, which nobody can see yet
        url = f"gs://{tpu.bucket}/{posixpath.normpath(inside)}"
        if not context.storage.folders(f"{url}/"):
            mend = f"gcloud storage cp -r {shlex.quote(path)} {url}"
            raise UserError(f"the bucket has no {path!r}", where="DataConfig.train", mend=mend)
    return ", ".join(paths)


def _try(what: str, look: Callable[[], str]) -> Check:
    try:
        return what, True, look()
    except UserError as error:
        said = f"{error.reason}" if isinstance(error, GcloudError) else str(error)
        return what, False, said


def _account(context: Context) -> str:
    found = context.gcloud.json(["auth", "list", "--filter=status:ACTIVE"]) or []
    if not found:
        raise UserError("no account is active", mend="gcloud auth login")
    return found[0].get("account", "")


def _services(context: Context, wanted: list[str]) -> str:
    listed = context.gcloud.json(["services", "list", "--enabled", f"--project={context.spec.tpu.project}"]) or []
    enabled = {re.sub(r".*/services/", "", entry.get("name", "")) for entry in listed}
    missing = [name for name in wanted if name not in enabled]
    if missing:
        raise UserError(f"not enabled: {', '.join(missing)}", mend=f"gcloud services enable {' '.join(missing)}")
    return ", ".join(wanted)


def _machines(context: Context) -> str:
    tpu = context.spec.tpu
    places = list(dict.fromkeys([*((tpu.project, zone) for zone in tpu.zones), *context.journal.places()]))
    found, failed = survey(context.gcloud, context.journal, places, {context.spec.owner}, everything=False)
    due = [one.name for one in found if one.is_due]
    if failed:  # what was found elsewhere is said all the same
        late = f"{', '.join(due)} outlived their time; " if due else ""
        raise UserError(late + "; ".join(map(str, failed)))
    if due:
        raise UserError(f"{', '.join(due)} outlived their time", mend="python -m tpu_scripts reap --delete")
    if not names(context.spec.where).runtime:
        raise UserError(f"{context.spec.where.name} is to be had through GKE only", mend="use render-jobset")
    return f"{len(found)} of {context.spec.owner}'s are there" if found else "none is there"
