"""The page beside a master: what its gateway is told."""

import os
import types

from dfs_lib.cli import web


def words_for(monkeypatch, **own):
    """The words about keys and TLS that the gateway of a master with these settings is started with."""
    given = []

    class Page:
        def __init__(self, _sock, _ports, _host, key_words, _command, scheme):
            given.extend(key_words)
            assert scheme == ("https" if "--tls-cert" in key_words else "http")

        def start(self):
            """Nothing runs here."""

    monkeypatch.setattr(web, "listen", lambda address: object())
    monkeypatch.setattr(web, "Page", Page)
    settings = {"web": None, "insecure": False, "key_file": None, "tls": "auto", "tls_cert": None, "tls_key": None, "tls_ca": None, "host": None, **own}
    web.beside(types.SimpleNamespace(**settings))({"data": "/data", "ports": [7000]})
    return given


def test_its_gateway_is_told_each_thing_once(monkeypatch):
    assert words_for(monkeypatch) == ["--key-file", os.path.join("/data", "cluster.key"), "--tls", "auto"]
    assert words_for(monkeypatch, key_file="/key", tls="require", tls_cert="cert.pem") == [
        "--key-file", "/key", "--tls", "require", "--tls-ca", os.path.abspath("cert.pem"), "--tls-cert", os.path.abspath("cert.pem")]
    assert words_for(monkeypatch, key_file="/key", tls_cert="cert.pem", tls_key="key.pem", tls_ca="ca.pem")[-6:] == [
        "--tls-ca", os.path.abspath("ca.pem"), "--tls-cert", os.path.abspath("cert.pem"), "--tls-key", os.path.abspath("key.pem")]
