"""What `ray up` asks of EC2 with our AWS files, against moto's EC2; and the machines we think we know, against moto's
list, which is Amazon's own."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import moto.ec2
import pytest
import yaml
from moto import mock_aws
from ray.autoscaler._private.aws import config as aws_config
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.aws.utils import client_cache, resource_cache
from ray.autoscaler._private.util import prepare_config, validate_config

from actors.cluster.node_types import AWS

REGION = "us-east-1"
GIB = 1024  # MiB

Fill = Callable[..., Path]


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """An account as a user prepares it: a private subnet, a security group, an instance profile."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    monkeypatch.setattr(aws_config.time, "sleep", lambda _: None)
    with mock_aws():
        client_cache.cache_clear()
        resource_cache.cache_clear()
        ec2 = boto3.resource("ec2", region_name=REGION)
        vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")
        subnet = vpc.create_subnet(CidrBlock="10.0.1.0/24", AvailabilityZone=f"{REGION}a")
        group = ec2.create_security_group(GroupName="mine", Description="mine", VpcId=vpc.id)
        profile = boto3.resource("iam", region_name=REGION).create_instance_profile(InstanceProfileName="pit-ray")
        image = next(iter(ec2.images.limit(1)))
        yield {"subnet": subnet.id, "group": group.id, "profile": profile.name, "image": image.id}
        client_cache.cache_clear()
        resource_cache.cache_clear()


def cluster_file(name: str, account: dict[str, str], filled: Fill) -> dict[str, Any]:
    text = filled(name).read_text()
    for anchor, value in account.items():
        lines = [line for line in text.splitlines() if f"&{anchor} " in line]
        assert len(lines) == 1
        text = text.replace(lines[0], f"{lines[0].split('&')[0]}&{anchor} {value}")
    config = prepare_config(yaml.safe_load(text))
    validate_config(config)
    return config


def launch(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What Ray sends to EC2 for a node of each type, once it has bootstrapped the file."""
    asked: dict[str, dict[str, Any]] = {}
    boto3.setup_default_session()
    boto3.DEFAULT_SESSION.events.register(
        "provide-client-params.ec2.RunInstances", lambda params, **_: asked.update({current: params})
    )
    ready = AWSNodeProvider.bootstrap_config(config)
    provider = AWSNodeProvider(ready["provider"], ready["cluster_name"])
    for current, node_type in ready["available_node_types"].items():
        tags = {"ray-node-name": current, "ray-user-node-type": current}
        provider.create_node(node_type["node_config"], tags, 1)
    return asked


@pytest.mark.parametrize(("name", "kind", "cards"), [("a100", "p4d.24xlarge", 4), ("h100", "p5.48xlarge", 32)])
def test_what_is_asked_of_ec2(account: dict[str, str], filled: Fill, name: str, kind: str, cards: int) -> None:
    asked = launch(cluster_file(name, account, filled))
    head, worker = asked["head"], asked["worker"]

    assert (head["InstanceType"], worker["InstanceType"]) == ("m6i.4xlarge", kind)
    assert (head["SubnetId"], head["SecurityGroupIds"]) == (account["subnet"], [account["group"]])
    interfaces = worker["NetworkInterfaces"]
    assert [interface["NetworkCardIndex"] for interface in interfaces] == list(range(cards))
    assert [interface["DeviceIndex"] for interface in interfaces] == [0] + [1] * (cards - 1)
    assert all(interface["InterfaceType"].startswith("efa") for interface in interfaces)
    assert interfaces[0]["InterfaceType"] == "efa"  # one that only does EFA could not carry ssh
    assert {interface["SubnetId"] for interface in interfaces} == {account["subnet"]}
    assert "SubnetId" not in worker and "SecurityGroupIds" not in worker
    for asks in (head, worker):
        assert asks["IamInstanceProfile"] == {"Name": "pit-ray"}
        assert asks["ImageId"] == account["image"]
        assert asks["MetadataOptions"]["HttpTokens"] == "required"
        assert all(disk["Ebs"]["DeleteOnTermination"] for disk in asks["BlockDeviceMappings"])
        assert "InstanceMarketOptions" not in asks
        tags = {tag["Key"]: tag["Value"] for tag in asks["TagSpecifications"][0]["Tags"]}
        assert tags["ray-cluster-name"] == f"pit-ray-{name}"


def test_ray_opens_nothing_of_its_own(account: dict[str, str], filled: Fill) -> None:
    ec2 = boto3.client("ec2", region_name=REGION)
    before = {group["GroupId"]: group["IpPermissions"] for group in ec2.describe_security_groups()["SecurityGroups"]}
    launch(cluster_file("a100", account, filled))
    after = {group["GroupId"]: group["IpPermissions"] for group in ec2.describe_security_groups()["SecurityGroups"]}
    assert after == before
    roles = boto3.client("iam", region_name=REGION).list_roles()["Roles"]
    assert [role["RoleName"] for role in roles if "ray" in role["RoleName"]] == []


@pytest.mark.parametrize("name", AWS)
def test_a_machine_is_what_amazon_says(name: str) -> None:
    with gzip.open(Path(moto.ec2.__file__).parent / "resources" / "instance_types.json.gz") as file:
        listed = json.load(file)[name]
    mine = AWS[name]
    assert mine.cpus == listed["VCpuInfo"]["DefaultVCpus"]
    assert mine.memory * GIB == listed["MemoryInfo"]["SizeInMiB"]
    gpus = listed.get("GpuInfo", {}).get("Gpus", [])
    assert mine.gpus == sum(gpu["Count"] for gpu in gpus)
    assert not gpus or mine.gpu == gpus[0]["Name"]
    # Amazon says what is usable of each GPU, or all of it; its maker's name for it is within a tenth.
    assert not gpus or abs(gpus[0]["MemoryInfo"]["SizeInMiB"] / GIB - mine.gpu_memory) <= 0.1 * mine.gpu_memory
