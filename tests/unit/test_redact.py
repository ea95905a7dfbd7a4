from __future__ import annotations

import shlex
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tracer.redact import MASK, masked, program_only

AWS = "AKIA" + "ABCDEFGHIJ234567"
GITHUB = "ghp_" + "a1B2" * 9
SLACK = "xoxb-" + "123456789012-abcdef"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"
PEM = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\n-----END EC PRIVATE KEY-----"

# Pieces that mean something here, so that random text of them reaches every rule.
PIECES = st.sampled_from(
    [
        *("--password", "--token=", "-p", "-u", "-H", "curl", "mysql", "sshpass", "sh", "-c"),
        *("Authorization:", "Bearer", "Basic", "X-Api-Key:", "bob:pw", "PGPASSWORD=", "password"),
        *("https://", "@", ":", "/", "?", "&", "=", ",", ";", " ", "\n", '"', "'", "\\", "key="),
        *(AWS, GITHUB, SLACK, JWT, PEM, "eyJ", "-----BEGIN A-----", "***", "none", "x", "-", "."),
        *("--no-password", "é", "\x00", "\udc80"),
    ]
)
ARGUMENT = st.one_of(st.lists(PIECES, max_size=12).map("".join), st.text(max_size=40))
ARGUMENTS = st.lists(ARGUMENT, max_size=8)


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("app --password hunter2 run", "app --password *** run"),
        ("app --password=hunter2", "app --password=***"),
        ("app -password hunter2", "app -password ***"),
        ("app --auth --db-passwd hunter2", "app --auth --db-passwd ***"),
        ("app --password -hunter2", "app --password ***"),
        ("app --client_secret=hunter2", "app --client_secret=***"),
        ("app --apikey hunter2 --api-key=hunter2", "app --apikey *** --api-key=***"),
        ("app --api_key hunter2", "app --api_key ***"),
        ("app --access-key hunter2", "app --access-key ***"),
        ("app --private-key=hunter2", "app --private-key=***"),
        ("app --aws-credentials hunter2", "app --aws-credentials ***"),
        (
            "app --accessToken=hunter2 --myAPIToken hunter2",
            "app --accessToken=*** --myAPIToken ***",
        ),
        ("app --password='a b,c&d'", "app '--password=***'"),
        ("app --use-auth-token hunter2", "app --use-auth-token ***"),
        ("java -Dspring.datasource.password=hunter2", "java -Dspring.datasource.password=***"),
        ("openssl rsa -passin pass:hunter2", "openssl rsa -passin ***"),
        ("env PGPASSWORD=hunter2 psql", "env PGPASSWORD=*** psql"),
        (
            "env AWS_SECRET_ACCESS_KEY=a/b+c MYSQL_PWD=x",
            "env AWS_SECRET_ACCESS_KEY=*** MYSQL_PWD=***",
        ),
        ("mount -o user=u,password=p,vers=3", "mount -o user=u,password=***,vers=3"),
        ("helm --set db.auth.password=hunter2", "helm --set db.auth.password=***"),
        ("psql 'host=db password=hunter2 user=u'", "psql 'host=db password=*** user=u'"),
        ('app \'{"password": "a b", "u": 1}\'', 'app \'{"password": "***", "u": 1}\''),
        ("az 'Name=n;AccountKey=aGk=;Suffix=s'", "az 'Name=n;AccountKey=***;Suffix=s'"),
    ],
)
def test_the_value_of_a_secret_name_is_masked(command: str, shown: str) -> None:
    arguments = shlex.split(command)

    assert masked(arguments) == tuple(shlex.split(shown))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://bob:hunter2@host/x", "https://bob:***@host/x"),
        ("postgres://app:p@ss@db:5432/x", "postgres://app:***@db:5432/x"),
        ("postgres://app:pa/ss@db:5432/x", "postgres://app:***@db:5432/x"),
        ("amqp://a:b@h1,amqp://a:b@h2", "amqp://a:***@h1,amqp://a:***@h2"),
        ("redis://:hunter2@host:6379/0", "redis://:***@host:6379/0"),
        ("https://hunter2:x-oauth-basic@github.com", "https://***:x-oauth-basic@github.com"),
        ("https://0123456789abcdef0123@host", "https://***@host"),
        ("http://h/?a=1&token=hunter2&b=2", "http://h/?a=1&token=***&b=2"),
        ("http://h/?key=hunter2#x", "http://h/?key=***"),
        ("https://h/b?sv=1&sig=hunter2", "https://h/b?sv=1&sig=***"),
        ("https://h/?X-Amz-Signature=hunter2", "https://h/?X-Amz-Signature=***"),
    ],
)
def test_secrets_of_urls_are_masked_and_the_host_stays(url: str, shown: str) -> None:
    assert masked(["app", url]) == ("app", shown)


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["-H", "Authorization: Bearer abc.d"], ["-H", "Authorization: Bearer ***"]),
        (["-HAuthorization: Basic Zm9v"], ["-HAuthorization: Basic ***"]),
        (["-H", "authorization:hunter2"], ["-H", "authorization:***"]),
        (
            ["-H", "Authorization:", "Bearer", "abc", "x"],
            ["-H", "Authorization:", "Bearer", MASK, "x"],
        ),
        (["-H", "Authorization: Bearer", "abc", "x"], ["-H", "Authorization: Bearer", MASK, "x"]),
        (["-H", "X-Vault-Token: hunter2"], ["-H", "X-Vault-Token: ***"]),
        (["-H", "PRIVATE-TOKEN:hunter2"], ["-H", "PRIVATE-TOKEN:***"]),
        (["-H", "Cookie: a=b; c=d"], ["-H", "Cookie: ***"]),
        (["say", "bearer abcdefgh.ijk"], ["say", "bearer ***"]),
    ],
)
def test_secrets_of_headers_are_masked(arguments: list[str], shown: list[str]) -> None:
    assert masked(["http", *arguments]) == ("http", *shown)


@pytest.mark.parametrize("secret", [AWS, "ASIA" + AWS[4:], GITHUB, SLACK, JWT, PEM])
def test_what_has_a_known_shape_is_masked_anywhere(secret: str) -> None:
    assert masked(["app", secret, f"a/{secret}", f"x={secret}"]) == ("app", MASK, "a/***", "x=***")


def test_a_pem_block_that_is_cut_off_is_masked_to_its_end() -> None:
    assert masked([f"a {PEM[:40]}"]) == ("a ***",)


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("curl -u bob:hunter2 http://h", "curl -u bob:*** http://h"),
        ("curl -sSu bob:hunter2 http://h", "curl -sSu bob:*** http://h"),
        ("curl -ubob:hunter2 http://h", "curl -ubob:*** http://h"),
        ("curl --user bob http://h", "curl --user bob http://h"),
        ("/usr/bin/mysqldump -phunter2 db", "/usr/bin/mysqldump -p*** db"),
        ("mysql -ppassword db", "mysql -p*** db"),
        ("mysql -p db", "mysql -p db"),
        ("sshpass -p hunter2 ssh h -p 22", "sshpass -p *** ssh h -p 22"),
        ("redis-cli -h h -a hunter2 ping", "redis-cli -h h -a *** ping"),
        ("ldapsearch -x -w hunter2", "ldapsearch -x -w ***"),
        ("docker run -p 80:80 -u 1000:1000 img", "docker run -p 80:80 -u 1000:1000 img"),
        ("sudo timeout 5 mysql -phunter2", "sudo timeout 5 mysql -p***"),
    ],
)
def test_one_letter_options_are_those_of_their_program(command: str, shown: str) -> None:
    assert " ".join(masked(command.split())) == shown


@pytest.mark.parametrize(
    ("script", "shown"),
    [
        ("mysql -phunter2 -h db", "mysql -p*** -h db"),
        ("app --password hunter2 --host h", "app --password *** --host h"),
        ("app --password 'a b c' --host h", "app --password *** *** *** --host h"),
        ("curl -u a:b http://h", "curl -u a:*** http://h"),
        (
            'curl -H "Authorization: Basic Zm9v" http://h',
            'curl -H "Authorization: Basic ***" http://h',
        ),
    ],
)
def test_a_command_line_inside_an_argument_is_masked_like_one(script: str, shown: str) -> None:
    assert masked(["sh", "-c", script]) == ("sh", "-c", shown)


@pytest.mark.parametrize(
    "command",
    [
        "app --author bob --tokenizer=bert --max-tokens 5 --max_new_tokens=7",
        "app --token-file /a --password-file=/b --private-key-path /c --password-stdin x",
        "app --no-password db --auth=none --auth true --enable-token-auth=true --secret-name s",
        "app auth:8080 token-service:443 password.example:5432 [fd00::1]:443",
        "app --authorization-mode=Node,RBAC --auth-url http://h --authentication-mode x",
        "kube-apiserver --tls-private-key-file=/a --service-account-signing-key-file=/b",
        "git clone ssh://git@github.com/a/b",
        "wget http://host:8080/path/@scope/x http://h/?email=a@b.example",
        "env PWD=/srv OLDPWD=/ HOME=/root",
        "nginx: worker process",
        "ssh -p 22 -u bob host",
        "kubectl get secret token",
        "app --password",
        "app --password=",
        "task-runner --disk-image-of-a-very-long-name sk-short",
    ],
)
def test_what_is_no_secret_stays(command: str) -> None:
    assert masked(command.split()) == tuple(command.split())


def test_the_program_alone_is_the_first_argument() -> None:
    assert program_only(["/bin/app", "--password", "hunter2"]) == ("/bin/app",)
    assert program_only([]) == ()


def test_a_process_title_that_holds_the_command_line_is_masked() -> None:
    assert program_only(["app --password hunter2 --host h"]) == ("app --password *** --host h",)


@settings(deadline=None)  # a busy machine is no failure
@given(ARGUMENTS)
@example([])
@example([""])
def test_as_many_arguments_come_out_as_went_in(arguments: list[str]) -> None:
    assert len(masked(arguments)) == len(arguments)


@settings(deadline=None, max_examples=1000)
@given(ARGUMENTS)
@example([AWS + JWT])
@example(["--password", "'a", "b"])
def test_masking_what_is_masked_changes_nothing(arguments: list[str]) -> None:
    once = masked(arguments)

    assert masked(once) == once


@settings(deadline=None)
@given(
    st.lists(st.text("abc/.", min_size=1, max_size=9), max_size=4),
    st.text("XYZ0123456789+/@:&,;='\" ", min_size=1, max_size=30),
    st.lists(st.text("abc/.", min_size=1, max_size=9), max_size=4),
)
def test_a_named_secret_never_shows_and_its_neighbours_stay(
    before: list[str], secret: str, after: list[str]
) -> None:
    for option in (["--password", secret], [f"--token={secret}"], [f"API_SECRET={secret}"]):
        shown = masked(["app", *before, *option, *after])
        name = option[0].partition("=")[0]
        hidden = ["--password", MASK] if len(option) == 2 else [f"{name}={MASK}"]
        assert shown == ("app", *before, *hidden, *after)


@pytest.mark.parametrize(
    "piece",
    [
        *(
            "a",
            "-",
            "'",
            '"',
            "\\",
            " ",
            "=",
            ":",
            "@",
            ",",
            "eyJ",
            "eyJ.",
            "eyJa.a",
            "://",
            "a://b:c",
        ),
        *("password=", "password= ", "password: ", "password,", "-----BEGIN A-----", "AKIA", "sk-"),
        *("bearer ", "Authorization:", "Authorization: Bearer ", "--password ", "A", "aA", "a=,"),
        *(
            "https://u:p/",
            "x-",
            "ghp_",
            "key=&",
            'password="',
            "password='x",
            "curl -u ",
            "\n",
            "-a",
        ),
    ],
)
def test_hostile_arguments_take_no_longer_than_their_length(piece: str) -> None:
    """Of 256 KiB a rule of quadratic time would take minutes, a linear one a second at most."""
    argument = piece * ((256 << 10) // len(piece))
    began = time.process_time()

    masked([argument])

    assert time.process_time() - began < 10
