"""Helm's own library, without the program:

helm.py template CHART | lint CHART | package CHART FOLDER | push FILE URL
helm.py install CHART | upgrade CHART | uninstall CHART

template, install, upgrade and uninstall read a JSON list of {name, namespace, values, set, set-json} from standard
input, the last three as Helm's program takes them, and print the outcome of each, or its error. template asks no
cluster; the others ask that of $KUBECONFIG.
"""

import json
import os
import sys

import helm_python as helm

# A dry run on the client contacts no cluster, but needs the address of one.
NO_CLUSTER = json.dumps({
    "apiVersion": "v1",
    "kind": "Config",
    "clusters": [{"name": "none", "cluster": {"server": "https://127.0.0.1:1"}}],
    "users": [{"name": "none", "user": {}}],
    "contexts": [{"name": "none", "context": {"cluster": "none", "user": "none"}}],
    "current-context": "none",
})


def merge(into, values):
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = value
    return into


def values_of(request):
    values = dict(request.get("values", {}))
    for expression in request.get("set-json", []):
        merge(values, helm.parse_set_json(expression))
    for expression in request.get("set", []):
        merge(values, helm.parse_set_string(expression))
    return values


def perform(command, chart, request):
    name, namespace = request["name"], request["namespace"]
    cluster = {"kubeconfig_content": NO_CLUSTER, "storage_driver": "memory"} if command == "template" else {}
    try:
        with helm.Config(namespace=namespace, **cluster) as config:
            if command == "uninstall":
                return config.uninstall(name)
            if command == "upgrade":
                return config.upgrade(chart, name, values_of(request), namespace=namespace)
            dry_run = "client" if command == "template" else None
            return config.install(chart, name, values_of(request), namespace=namespace, dry_run=dry_run)
    except helm.HelmError as error:
        return {"error": str(error)}


def main(command, *arguments):
    if command in ("template", "install", "upgrade", "uninstall"):
        with helm.Chart.load(arguments[0]) as chart:
            print(json.dumps([perform(command, chart, request) for request in json.load(sys.stdin)]))
    elif command == "lint":
        report = helm.lint(arguments[0], {}, strict=True)
        for message in report["messages"]:
            print(f"{message['path']}: {message['error']}")
        return 1 if report["errors"] else 0
    elif command == "package":
        print(helm.package(arguments[0], destination=arguments[1]))
    elif command == "push":
        file, url = arguments
        with helm.RegistryClient() as client:
            # Otherwise the logins of helm and docker count.
            if os.environ.get("REGISTRY_TOKEN"):
                host = url.removeprefix("oci://").split("/")[0]
                client.login(host, os.environ["REGISTRY_USER"], os.environ["REGISTRY_TOKEN"])
            client.push(file, url)
    else:
        sys.exit(__doc__)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]) if len(sys.argv) > 1 else __doc__)
