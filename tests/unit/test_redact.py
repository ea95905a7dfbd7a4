from __future__ import annotations

import shlex
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tracer.redact import MASK, masked, masked_text, program_only, without_quotations
from tracer.sources.text.connection import Problem

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
        *("--no-password", "é", "\x00", "\udc80", "--key", "KEY=", "--user", "-b", "-x", "\\\n"),
        *("docker", "login", "nmcli", "aws_", "@tcp(", "hooks.slack.com/services/", "bot1:", "s."),
        *("token:", "snmpget", "-c", "/", "2"),
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
        ("env STRIPE_KEY=x HMAC_KEY=x SSH_KEY=x", "env STRIPE_KEY=*** HMAC_KEY=*** SSH_KEY=***"),
        ("env KEY=x app --key x --key=x", "env KEY=*** app --key *** --key=***"),
        ("app --hmac-key x --sign.key=x", "app --hmac-key *** --sign.key=***"),
        ("app --key +/a+b==", "app --key ***"),
        ("app --bindpw=x --rootpw x", "app --bindpw=*** --rootpw ***"),
        ("app --license x --license=x", "app --license *** --license=***"),
        ("app --password --hunter2 --host h", "app --password *** --host h"),
        ("app --password --Hunter --host h", "app --password *** --host h"),
        ("nmcli con mod w wifi-sec.psk x", "nmcli con mod w wifi-sec.psk ***"),
        ("nmcli dev wifi connect w password x", "nmcli dev wifi connect w password ***"),
        (
            "aws configure set aws_secret_access_key x",
            "aws configure set aws_secret_access_key ***",
        ),
        (
            "aws configure set profile.a.aws_session_token x",
            "aws configure set profile.a.aws_session_token ***",
        ),
        ("say token: x", "say token: ***"),
        ("say password:x secret:x", "say password:*** secret:***"),
        ("socat - PROXY:p:h:1,proxyauth=u:x", "socat - PROXY:p:h:1,proxyauth=***"),
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
        ("bob:hunter2@tcp(db:3306)/shop", "bob:***@tcp(db:3306)/shop"),
        ("bob:hun@ter:2/@unix(/run/db)/shop", "bob:***@unix(/run/db)/shop"),
        ('{"dsn":"bob:hunter2@tcp(db:3306)/"}', '{"dsn":"bob:***@tcp(db:3306)/"}'),
        ("https://hooks.slack.com/services/T0/B0/Xy?a", "https://hooks.slack.com/services/***?a"),
        ("https://hooks.slack.com/workflows/T0/A0/1/Xy", "https://hooks.slack.com/workflows/***"),
        ("https://api.telegram.org/bot12:A-a_b/getMe", "https://api.telegram.org/bot***/getMe"),
        ("https://password:hunter2@host/x", "https://password:***@host/x"),
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


@pytest.mark.parametrize(
    "secret",
    [
        *(AWS, "ASIA" + AWS[4:], GITHUB, SLACK, JWT, PEM),
        *("s." + "aB3" * 8, "hvs." + "aB3-_" * 8, "hvb." + "aB3" * 30),
        "123456789:" + "AAb-_" * 7,
    ],
)
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
        ("docker login -u bob -p hunter2 host", "docker login -u bob -p *** host"),
        ("docker login -u bob -phunter2 host", "docker login -u bob -p*** host"),
        ("podman login -p hunter2 host", "podman login -p *** host"),
        ("helm registry login -p hunter2 host", "helm registry login -p *** host"),
        ("az login -u bob -p hunter2", "az login -u bob -p ***"),
        ("docker login ; docker run -p 80:80 i", "docker login ; docker run -p 80:80 i"),
        ("zip -P hunter2 a.zip f", "zip -P *** a.zip f"),
        ("unzip -Phunter2 a.zip", "unzip -P*** a.zip"),
        ("bcp db in f -P hunter2", "bcp db in f -P ***"),
        ("7z a -phunter2 a.7z f", "7z a -p*** a.7z f"),
        ("sqlcmd -Phunter2", "sqlcmd -P***"),
        ("snmpget -v2c -c hunter2 host oid", "snmpget -v2c -c *** host oid"),
        ("snmpwalk -v3 -A hunter2 -X hunter2 host", "snmpwalk -v3 -A *** -X *** host"),
        ("mysql -h docker -phunter2", "mysql -h docker -p***"),
        ("mysql -h curl -phunter2", "mysql -h curl -p***"),
        ("curl -b sid=hunter2 http://h", "curl -b *** http://h"),
        ("curl -sbsid=hunter2 http://h", "curl -sbsid=hunter2 http://h"),
        ("curl -bsid=hunter2 http://h", "curl -b*** http://h"),
        ("curl -b cookies.txt http://h", "curl -b cookies.txt http://h"),
        ("curl -x bob:hunter2@proxy:3128 http://h", "curl -x bob:***@proxy:3128 http://h"),
        ("curl -xbob:hunter2@proxy:3128 http://h", "curl -xbob:***@proxy:3128 http://h"),
        ("curl --proxy http://b:hunter2@p:1 http://h", "curl --proxy http://b:***@p:1 http://h"),
        ("curl -x proxy:3128 http://h", "curl -x proxy:3128 http://h"),
        ("curl -sSE cert.pem:hunter2 http://h", "curl -sSE cert.pem:*** http://h"),
        ("curl --cert cert.pem:hunter2 http://h", "curl --cert cert.pem:*** http://h"),
        ("curl -E cert.pem http://h", "curl -E cert.pem http://h"),
        ("app --user bob:hunter2", "app --user bob:***"),
        ("app --user=bob:hunter2", "app --user=bob:***"),
        ("etcdctl --user root:hunter2 get k", "etcdctl --user root:*** get k"),
        (
            "docker exec etcd etcdctl --user root:hunter2 get k",
            "docker exec etcd etcdctl --user root:*** get k",
        ),
        ("docker run --user www-data:www-data i", "docker run --user www-data:www-data i"),
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
        ("app --password \\\n hunter2 \\\n --host h", "app --password \\\n *** \\\n --host h"),
        ("app password=a\\ b c", "app password=*** c"),
        ("(mysql -phunter2)", "(mysql -p***"),
        ("app --password a\\ b --host h", "app --password *** *** --host h"),
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
        "app --key-file /a --keyring r --keys 5 --key /etc/tls/a.pem --key=tls/server.key",
        "sort --key 2,3 --key=2 --public-key x --partition-key=id --ssh-key ~/.ssh/id_ed25519",
        "app tls.key=../a key=value --print.key=true --user bob --user 1000:1000",
        "aws secretsmanager list-secrets",
        "app password:3306 password: ",
        "wget http://s.example.com/ http://s.aaaaaaaaaaaaaaaaaaaaaaaa.com/ root@tcp(db:1)/x",
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


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("Cannot open netlink socket: Operation not permitted",) * 2,
        ("exit status 1: cat: can't open '/proc/net/tcp6': No such file or directory",) * 2,
        ("a.txt:7: the port is no number: numbers are needed, as option -n gives them",) * 2,
        ('a.txt:7: not a line of ss: "mysql -phunter2"', 'a.txt:7: not a line of ss: "mysql -p***'),
        ('a:1: no: "x --password=hunter2 y"', 'a:1: no: "x --password=*** y"'),
        ("exit status 1: https://bob:hunter2@host/", "exit status 1: https://bob:***@host/"),
        ("", ""),
    ],
)
def test_a_secret_in_a_line_of_prose_is_masked(line: str, shown: str) -> None:
    assert masked_text(line) == shown


@given(ARGUMENT)
def test_masking_masked_prose_changes_nothing(line: str) -> None:
    assert masked_text(masked_text(line)) == masked_text(line)


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ('a.txt:7: not a line of ss: "htpasswd bob hunter2"', "a.txt:7: not a line of ss"),
        (
            'a: nothing could be used of its 1 lines; first problem: a:1: of no format: "hunter2"',
            "a: nothing could be used of its 1 lines; first problem: a:1: of no format",
        ),
        ("5 more lines of a.txt that could not be read",) * 2,
        ("app --password hunter2", "app --password ***"),
    ],
)
def test_without_quotations_a_line_keeps_where_and_why(line: str, shown: str) -> None:
    assert without_quotations(line) == shown


def test_a_problem_quotes_its_line_in_a_way_that_can_be_taken_away() -> None:
    problem = Problem("a.txt", 7, ' users bob "hunter2" ', "the port is no number: why: how")
    assert without_quotations(str(problem)) == "a.txt:7: the port is no number: why: how"


@given(ARGUMENTS)
@example([])
@example([""])
def test_as_many_arguments_come_out_as_went_in(arguments: list[str]) -> None:
    assert len(masked(arguments)) == len(arguments)


@given(ARGUMENTS)
@example([AWS + JWT])
@example(["--password", "'a", "b"])
def test_masking_what_is_masked_changes_nothing(arguments: list[str]) -> None:
    once = masked(arguments)

    assert masked(once) == once


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
        *(
            "@tcp(",
            "a:b@tcp(",
            " @a(",
            "@a",
            "hooks.slack.com/services/",
            "1:",
            "s.",
            "--key ",
            "--a-",
        ),
        *("docker login -p ", "--user a:", "\\\n", "\\ ", "curl -x a:", "KEY=", "password:"),
        *('Authorization:"', "'x-token:", '"x-token:a'),
    ],
)
def test_hostile_arguments_take_no_longer_than_their_length(piece: str) -> None:
    """Of 256 KiB a rule of quadratic time would take minutes, a linear one a second at most."""
    argument = piece * ((256 << 10) // len(piece))
    began = time.process_time()

    masked([argument])

    assert time.process_time() - began < 10
