"""Takes what looks like a secret out of a command line that leaves this machine.

A guess, by names and shapes: no program says which of its arguments are secret. Where it is in
doubt, more is masked rather than less, except for what looks like an address, a port, a path or
the name of an option, which a report is read for. A secret in an unnamed place
(`htpasswd -b users bob hunter2`) is not found; `program_only` is for whoever cannot accept that.

Every expression starts where a run of its characters starts and never gives a character back
(possessive quantifiers), so that what a process puts into its arguments cannot make this slow.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

MASK: Final = "***"

# Nothing that is masked makes more than one neighbour visible in ordinary text; hostile text may.
_ROUNDS: Final = 4

# --- names ---------------------------------------------------------------------------------------

_LONGEST_NAME: Final = 256
_NAME_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")

# Told by any part of a name written in one: PGPASSWORD, AWS_SECRET_ACCESS_KEY, AccountKey.
_SECRET_PART: Final = re.compile(
    "password|passwd|passphrase|secret|credential"
    "|(?:api|access|account|auth|encryption|license|master|private|shared|signing)key"
    "|oauthbearer"
)
# Told by a word alone: "auth" also begins "author", "token" begins "tokenizer".
_SECRET_WORDS: Final = frozenset(
    (
        *("auth", "authtoken", "bearer", "cookie", "cred", "creds", "jwt", "oauth", "pass"),
        *("passin", "passout", "proxyauth", "psk", "pw", "pwd", "signature", "token", "tokens"),
        *("dbpass", "rootpass", "userpass"),
    )
)
_SECRET_ENDINGS: Final = ("token", "pwd", "passwd", "pw")
# Secret or a file's name, a column's, a number: what the value looks like decides.
_KEYS: Final = frozenset({"key", "licence", "license"})
_OPEN_KEYS: Final = frozenset(
    (
        *("cache", "foreign", "group", "index", "partition", "primary", "public", "row", "routing"),
        *("shard", "sort", "topology"),
    )
)
_NO_KEY: Final = re.compile(
    r"[0-9.,]{0,5}|[.~]{0,2}/[\w./@~-]*+"
    r"|[\w./@~-]{1,256}\.(?:asc|cer|conf|crt|der|gpg|jks|json|key|p12|pem|pfx|pub|txt|ya?ml)"
)
# A colon alone separates these from their value; `auth:8080` is a host and its port.
_COLON_NAMES: Final = frozenset(
    {"passphrase", "passwd", "password", "psk", "pwd", "secret", "token"}
)
_PORT_HERE: Final = re.compile(r"[0-9]{0,5}(?![^\s/?#,;\"'])")
# `--max-tokens 5` is a number of words of text.
_COUNTED: Final = frozenset({"count", "limit", "max", "min", "new", "num", "prompt", "total"})
# What a name ends in that is about a secret: `--token-file PATH`, `--auth-mode`.
_ABOUT: Final = frozenset(
    (
        *("algorithm", "audience", "backend", "class", "count", "dir", "directory", "domain"),
        *("driver", "duration", "enabled", "endpoint", "expiration", "expiry", "file"),
        *("filename", "files", "folder", "format", "host", "interval", "issuer", "kubeconfig"),
        *("length", "limit", "lifetime", "location", "max", "method", "min", "mode", "mount"),
        *("name", "namespace", "path", "paths", "plugin", "policy", "port", "prompt"),
        *("provider", "realm", "ref", "scheme", "server", "size", "source", "stdin", "store"),
        *("timeout", "ttl", "type", "uri", "url", "version", "webhook"),
    )
)
# What an option begins with that no value follows: `--no-password`.
_SWITCHING: Final = frozenset(
    (
        *("allow", "ask", "disable", "enable", "no", "prompt", "require", "required", "skip"),
        *("without",),
    )
)
# Environment variables of every shell, which hold folders.
_FOLDERS: Final = frozenset({"PWD", "OLDPWD"})
# No secret, whatever the name: `--auth=none`.
_HARMLESS_VALUES: Final = frozenset({"", "false", "no", "none", "null", "off", "on", "true", "yes"})
# One- and two-letter words of URLs' queries alone: Google's API key, the signature of Azure's SAS.
_QUERY_NAMES: Final = frozenset({"key", "sig"})

# --- texts ---------------------------------------------------------------------------------------

_NAMED: Final = re.compile(r"""(?<![\w.-])([\w.-]++)(\\?["'\]]?\s*+[=:]\s*+)""")
# A comma ends a value where another name follows (`-o user=u,password=p,vers=3`). A shell takes
# space after a backslash for a part of the word, but for the end of a line.
_VALUE: Final = re.compile(r"""(?:\\\s|[^\s&"'`,;]|[,;](?![\w.-]{1,64}=))*+""")
_QUOTE: Final = re.compile(r"""\\?["']""")
_LINE: Final = re.compile(r"[^\r\n]*+")
_SCHEMES: Final = frozenset(
    {"apikey", "basic", "bearer", "digest", "negotiate", "token", "aws4-hmac-sha256"}
)
_SCHEME_AND_VALUE: Final = re.compile(r"([A-Za-z0-9-]{1,20}\s++)(?=\S)")
_BEARER: Final = re.compile(r"(?<![\w-])(bearer\s++)[A-Za-z0-9._~+/=-]{8,}+", re.IGNORECASE)
_PEM: Final = re.compile(r"-----BEGIN [A-Z0-9 ]{1,40}-----")
_PEM_END: Final = re.compile(r"-----END [A-Z0-9 ]{1,40}-----")

_AUTHORITY: Final = re.compile(r"""[^\s/?#"'<>`]*+""")
_PORT: Final = re.compile(r"[0-9]{0,5}")
# How far a password is looked for that holds an unescaped slash.
_LONGEST_USERINFO: Final = 256
# A user's name of this length is a token in its place: https://TOKEN@github.com.
_LONGEST_USER: Final = 20
_NOT_A_PASSWORD: Final = frozenset({"", "x-oauth-basic"})
# USER:PASSWORD@NETWORK(ADDRESS), of go-sql-driver/mysql: the password may hold anything.
_DSN: Final = re.compile(r"@[a-z][a-z0-9]{0,15}\(")
_BEFORE_DSN: Final = re.compile(r"""[\s"'`]""")
# URLs that are secret as a whole: whoever knows them may use them.
_SECRET_URL: Final = re.compile(
    r"(hooks\.slack\.com/(?:services|triggers|workflows)/)[\w/%*+-]++"
    r"|(api\.telegram\.org/(?:file/)?bot)[\w:%*-]++",
    re.IGNORECASE,
)

# What services give out, by the prefixes they document for secret scanners. Never right after a
# mask: text that had no beginning of its own must not get one.
_SHAPES: Final = re.compile(
    r"(?<![\w*-])(?:"
    r"(?:AKIA|ASIA)[0-9A-Z]{16}(?![0-9A-Za-z])"  # AWS
    r"|eyJ[\w-]++\.[\w-]++\.[\w-]*+"  # JWT
    r"|gh[opsur]_[0-9A-Za-z]{20,}+|github_pat_\w{20,}+"
    r"|glpat-[\w-]{16,}+"
    r"|xox[a-z]-[0-9A-Za-z-]{8,}+"  # Slack
    r"|AIza[\w-]{30,}+"  # Google
    r"|sk-[\w-]{20,}+|[rs]k_(?:live|test)_[0-9A-Za-z]{10,}+"
    r"|npm_[0-9A-Za-z]{30,}+|dckr_pat_[\w-]{20,}+|hf_[0-9A-Za-z]{30,}+"
    r"|hv[brs]\.[\w-]{20,}+|s\.[0-9A-Za-z]{24}(?![\w.-])"  # Vault
    r"|(?:bot)?[0-9]{6,12}:[\w-]{30,}+"  # Telegram
    r")"
)

# --- programs ------------------------------------------------------------------------------------

# One-letter options, by what a program's name begins with, or is. "attached" is -pSECRET alone,
# where `-p` asks for the password or is another option's.
_LOGIN: Final = " login"
"""No program's name: what follows `docker login`, where -p is not a port."""
_ATTACHED: Final = {
    _LOGIN: "p",
    "7z": "p",
    "bcp": "P",
    "ldap": "w",
    "mariadb": "p",
    "mongo": "p",
    "mysql": "p",
    "snmp": "AXc",
    "sqlcmd": "P",
    "sshpass": "p",
    "unzip": "P",
    "zip": "P",
}
_SEPARATE: Final = {
    _LOGIN: "p",
    "bcp": "P",
    "ipmitool": "P",
    "ldap": "w",
    "mongo": "p",
    "mosquitto_": "P",
    "redis-cli": "a",
    "snmp": "AXc",
    "sqlcmd": "P",
    "sshpass": "p",
    "unzip": "P",
    "valkey-cli": "a",
    "zip": "P",
}
_SEVERAL: Final = "snmp"
_LOGGING_IN: Final = frozenset({"az", "buildah", "docker", "helm", "nerdctl", "podman", "skopeo"})
# Their `--user` is USER:GROUP.
_RUNNING_AS: Final = frozenset({"buildah", "docker", "nerdctl", "podman", "runc"})
# Names of settings without a dash: `nmcli ... wifi-sec.psk SECRET`.
_SETTING: Final = {
    "aws": re.compile(r"[\w.-]{0,200}aws_[\w.-]{1,64}"),
    "nmcli": re.compile(r"[\w.-]{1,256}"),
}
_SHORT_NAMES: Final = frozenset(
    {*_LOGGING_IN, *_RUNNING_AS, *_SETTING, "7z", "7za", "7zr", "bcp", "etcdctl", "unzip", "zip"}
)
_PREFIXES: Final = tuple({**_ATTACHED, **_SEPARATE, "curl": ""}.keys() - _SHORT_NAMES - {_LOGIN})
_CURL: Final = re.compile(
    r"-[A-Za-z#]{0,8}?([uUbxE])|--(user|proxy-user|cookie|proxy|preproxy|cert|proxy-cert)"
)
_CURL_ATTACHED: Final = re.compile(
    r"-([uUbxE])(.++)|--(proxy-user|cookie|proxy|cert)=(.*+)", re.DOTALL
)
_USER: Final = "--user"

_OPTION: Final = re.compile(r"--?([A-Za-z_][\w.-]*+)")
# A word of other letters may be a secret that begins with dashes.
_LONG_OPTION: Final = re.compile(r"--[a-z]++(?:[-_][a-z]++)*+(?:=.*)?|-[A-Za-z]", re.DOTALL)
_ASSIGNMENT: Final = re.compile(r"-{0,2}([A-Za-z_][\w.-]*+)=")
_PLAIN_NAME: Final = re.compile(r"[\w.-]++")
_WHITESPACE: Final = re.compile(r"(\s+)")


def masked(arguments: Sequence[str]) -> tuple[str, ...]:
    """A command line with `***` in place of what looks like a secret; as many arguments as before.

    Masking what is masked changes nothing. Raises nothing. What only looks like a secret once its
    neighbour is masked is masked as well; a command line that does not come to rest, which only
    one made for it does, is masked as a whole.
    """
    before = tuple(arguments)
    for _ in range(_ROUNDS):
        after = _once(before)
        if after == before:
            return after
        before = after
    return (MASK,) * len(before)


def masked_text(text: str) -> str:
    """A line of prose, which may quote a command line, with `***` in the same places."""
    return masked((text,))[0]


def without_quotations(text: str) -> str:
    """A line of prose up to the line that it quotes: the name of a file, a number and a reason."""
    return masked_text(text.partition(': "')[0])


def program_only(arguments: Sequence[str]) -> tuple[str, ...]:
    """The first argument alone, masked: a process may write its whole command line into it."""
    return masked(arguments[:1])


def _once(arguments: Sequence[str]) -> tuple[str, ...]:
    words = _Words()
    return tuple(words.masked(_mask_text(argument), _mask_command) for argument in arguments)


def _mask_command(text: str) -> str:
    """A command line in one argument, as of `sh -c`, or a process's title."""
    words = _Words(quoted=True)
    pieces = _WHITESPACE.split(text)
    pieces[::2] = [words.masked(piece) for piece in pieces[::2]]
    return "".join(pieces)


class _Words:
    """Masks words that follow each other, where one says what the next is."""

    def __init__(self, *, quoted: bool = False) -> None:
        """`quoted`: a shell has yet to take quotation marks away."""
        self._quoted = quoted
        self._programs: dict[str, None] = {}
        """Of the tables, the last one at the end; any of the words may be the one that runs."""
        self._follows: Callable[[str], str | None] | None = None
        """What the next word is masked by; None as its answer lets the word after it follow."""
        self._quote = ""
        """The quotation mark that ends a secret of several words."""

    def masked(self, word: str, within: Callable[[str], str] | None = None) -> str:
        """The word; `within` masks what it holds if it is several words itself."""
        if not word:
            self._follows = None
            return word
        if self._quote:
            if self._quote in word:
                self._quote = ""
            return MASK
        if self._quoted and word == "\\":  # the line goes on
            return word
        follows, self._follows = self._follows, None
        if follows is not None and not _is_option(word):
            return self._following(word, follows)
        assignment = _ASSIGNMENT.match(word)
        if assignment is not None:
            mask = _masking(assignment[1], option=word.startswith("-"))
            if mask is not None:
                return assignment[0] + mask(word[assignment.end() :])
        attached = self._attached(word)
        if attached is not None:
            return attached
        self._follows = self._announced(word)
        if self._follows is None and within is not None and _WHITESPACE.search(word):
            word = within(word)
        if not word.startswith("-"):
            self._met(word)
        return word

    def _met(self, word: str) -> None:
        if word == "login" and self._last in _LOGGING_IN:
            self._programs[_LOGIN] = None
        program = _program(word)
        if program:
            self._programs.pop(program, None)
            self._programs[program] = None
            if program in _LOGGING_IN:
                self._programs.pop(_LOGIN, None)

    @property
    def _last(self) -> str:
        return next(reversed(self._programs), "")

    def _following(self, word: str, follows: Callable[[str], str | None]) -> str:
        answer = follows(word)
        if answer is None or (self._quoted and word[-1] == "\\"):  # a space that is a part of it
            self._follows = follows
        if answer is None:
            return word
        if self._quoted and word[0] in "\"'" and word[0] not in word[1:] and answer == MASK:
            self._quote = word[0]
        return answer

    def _announced(self, word: str) -> Callable[[str], str | None] | None:
        """What the word says of the next one."""
        if _header_name(word):
            return _mask_header_word
        if "curl" in self._programs and (curl := _CURL.fullmatch(word)):
            return _CURL_VALUES[curl[1] or curl[2]]
        if word == _USER and self._last not in _RUNNING_AS:
            return _mask_after_name
        if len(word) == 2 and word[0] == "-" and self._takes(_SEPARATE, word[1]):
            self._taken()
            return _mask_value
        option = _OPTION.fullmatch(word)
        if option is not None:
            return _announcing(option[1])
        setting = _SETTING.get(self._last)
        named = setting is not None and setting.fullmatch(word) and _is_secret(word)
        return _mask_value if named else None

    def _attached(self, word: str) -> str | None:
        """The word masked, if it is an option with its secret attached; else None."""
        if "curl" in self._programs and (curl := _CURL_ATTACHED.fullmatch(word)):
            value = curl[2] or curl[4] or ""
            masked_value = _CURL_VALUES[curl[1] or curl[3]](value)
            return word[: len(word) - len(value)] + masked_value if masked_value != value else None
        option, equals, value = word.partition("=")
        if (
            option == _USER
            and equals
            and ("curl" in self._programs or self._last not in _RUNNING_AS)
        ):
            return f"{option}={_mask_after_name(value)}"
        if len(word) > 2 and word[0] == "-" and self._takes(_ATTACHED, word[1]):
            self._taken()
            return word[:2] + MASK
        return None

    def _takes(self, letters: Mapping[str, str], letter: str) -> bool:
        """Whether any of the programs takes a secret with the option of this letter."""
        return any(letter in letters.get(program, "") for program in self._programs)

    def _taken(self) -> None:
        """Most have one secret: `sshpass -p secret ssh -p 22`."""
        several = _SEVERAL in self._programs
        self._programs = {_SEVERAL: None} if several else {}


def _program(word: str) -> str:
    """Which program of the tables the word runs, if any: /usr/bin/mysqldump is "mysql"."""
    name = word.rpartition("/")[2].lstrip("\"'`($")
    if name in _SHORT_NAMES:
        return "7z" if name.startswith("7z") else name
    return next((known for known in _PREFIXES if name.startswith(known)), "")


def _is_option(word: str) -> bool:
    """Whether a word is an option rather than the value of the one before it.

    A secret may begin with a dash: only what is written as options are is taken for one.
    """
    if _LONG_OPTION.fullmatch(word):
        return True
    option = _OPTION.match(word)
    return option is not None and _is_secret(option[1])


def _is_secret(name: str) -> bool:
    """Whether what has this name is likely to be secret."""
    name = name[-_LONGEST_NAME:].strip("-_.")
    words = [word.lower() for word in _NAME_WORD.findall(name)]
    if not words or name in _FOLDERS or words[-1] in _ABOUT:
        return False
    if words[-1] == "tokens" and not _COUNTED.isdisjoint(words):
        return False
    return (
        not _SECRET_WORDS.isdisjoint(words)
        or words[-1] == "authorization"
        or any(word.endswith(_SECRET_ENDINGS) for word in words)
        or _SECRET_PART.search("".join(words)) is not None
    )


def _is_key(name: str, *, option: bool) -> bool:
    """Whether what has this name may be secret: one that says of what, an option, a variable."""
    words = [word.lower() for word in _NAME_WORD.findall(name[-_LONGEST_NAME:])]
    if not words or words[-1] not in _KEYS:
        return False
    return words[-2] not in _OPEN_KEYS if len(words) > 1 else option or name.isupper()


def _masking(name: str, *, option: bool) -> Callable[[str], str] | None:
    """What masks the value of that name; None where it is not likely to be secret."""
    if _is_secret(name):
        return _mask_value
    return _mask_key if _is_key(name, option=option) else None


def _announcing(name: str) -> Callable[[str], str] | None:
    """What masks the word after the option of this name."""
    first = _NAME_WORD.search(name)
    if first is not None and first[0].lower() in _SWITCHING:
        return None
    return _masking(name, option=True)


def _header_name(word: str) -> bool:
    """Whether the word is `token:`, or `Authorization: Bearer`, the rest to follow.

    One in quotation marks has its value in the same text, where _named_values finds it.
    """
    name, colon, scheme = word.partition(":")
    if not colon or scheme.strip().lower() not in {"", *_SCHEMES}:
        return False
    return _is_header(name) or (_PLAIN_NAME.fullmatch(name) is not None and _is_secret(name))


def _is_header(name: str) -> bool:
    name = name.lower().removeprefix("-h")  # curl's option, with its value attached
    return (
        name in ("authorization", "proxy-authorization", "cookie", "private-token")
        or name.startswith("x-")
    ) and _is_secret(name)


def _mask_value(value: str) -> str:
    return value if value.lower() in _HARMLESS_VALUES else MASK


def _mask_header_word(word: str) -> str | None:
    return None if word.lower() in _SCHEMES else MASK


def _mask_key(value: str) -> str:
    """A key, unless it looks like the file that it is in, or like a number."""
    return value if _NO_KEY.fullmatch(value) else _mask_value(value)


def _mask_after_user(word: str) -> str:
    """`user:password` without the password; a user alone is asked for it."""
    user, colon, password = word.partition(":")
    return f"{user}:{MASK}" if colon and password else word


def _mask_after_name(word: str) -> str:
    """As _mask_after_user, where it may also be a user's number and a group's."""
    user, _, password = word.partition(":")
    return word if user.isdigit() and password.isdigit() else _mask_after_user(word)


def _mask_cookie(word: str) -> str:
    """NAME=VALUE; without an equals sign it is a file (curl(1), --cookie)."""
    return MASK if "=" in word else word


def _mask_proxy(word: str) -> str:
    """[user:password@]host:port, where a scheme does not show that it is a URL."""
    user, at, host = word.rpartition("@")
    return word if "://" in word else f"{_mask_after_user(user)}{at}{host}"


_CURL_VALUES: Final[Mapping[str, Callable[[str], str]]] = {
    **dict.fromkeys(("u", "U", "user", "proxy-user"), _mask_after_user),
    **dict.fromkeys(("b", "cookie"), _mask_cookie),
    **dict.fromkeys(("x", "proxy", "preproxy"), _mask_proxy),
    # A certificate's file and its password.
    **dict.fromkeys(("E", "cert", "proxy-cert"), _mask_after_user),
}


# --- inside an argument --------------------------------------------------------------------------


def _mask_text(text: str) -> str:
    text = _mask_pem(text)
    text = _replaced(text, _named_values(text))
    text = _replaced(text, _userinfos(text))
    text = _replaced(text, _dsn_passwords(text))
    text = _SECRET_URL.sub(lambda url: (url[1] or url[2]) + MASK, text)
    text = _BEARER.sub(rf"\g<1>{MASK}", text)
    return _SHAPES.sub(MASK, text)


def _replaced(text: str, places: Iterator[tuple[int, int]]) -> str:
    """The text with MASK at the places, which ascend; one that begins inside another is dropped."""
    pieces = []
    done = 0
    for start, end in places:
        if start >= done:
            pieces += [text[done:start], MASK]
            done = end
    return "".join((*pieces, text[done:]))


def _mask_pem(text: str) -> str:
    """PEM (RFC 7468) from its first line to its last; to the end, where that is cut off."""
    pieces = []
    done = 0
    while begin := _PEM.search(text, done):
        end = _PEM_END.search(text, begin.end())
        pieces += [text[done : begin.start()], MASK]
        done = len(text) if end is None else end.end()
    return "".join((*pieces, text[done:]))


def _named_values(text: str) -> Iterator[tuple[int, int]]:
    """Where the values are of NAME=value, `NAME: value`, JSON, queries of URLs and headers."""
    done = 0
    for match in _NAMED.finditer(text):
        name, separator = match[1], match[2]
        mask = None if match.start() < done else _masking_here(text, match)
        if mask is None:
            continue
        start = match.end()
        quote = _QUOTE.match(text, start)
        if quote is None:
            end = _value_end(text, match)
        else:
            start = quote.end()
            end = _found(text, quote[0], start)
        if ":" in separator and (scheme := _SCHEME_AND_VALUE.match(text, start, end)):
            start = scheme.end() if scheme[1].strip().lower() in _SCHEMES else start
        # `Authorization: Bearer`, its value in the next argument.
        if ":" in separator and _is_header(name) and text[start:end].lower() in _SCHEMES:
            continue
        done = end
        value = text[start:end]
        if mask(value) != value:
            yield start, end


def _masking_here(text: str, match: re.Match[str]) -> Callable[[str], str] | None:
    """What masks the value of the name that was found; None where it has none, or no secret one."""
    name, separator = match[1], match[2]
    before = text[match.start() - 1 : match.start()]
    mask = _masking(name, option=name.startswith("-"))
    if mask is None:
        in_query = before in ("?", "&") and name.lower() in _QUERY_NAMES
        mask = _mask_value if in_query else None
    bare = separator.strip()
    if bare == "=":
        separates = not separator[-1].isspace() or separator[0].isspace()
    elif bare == ":" and not separator[-1].isspace():
        separates = _is_header(name) or _is_set_off_by_colon(text, match)
    else:
        separates = True
    return mask if separates else None


def _is_set_off_by_colon(text: str, match: re.Match[str]) -> bool:
    """Whether it is `password:SECRET` rather than a host and its port, or a user in a URL."""
    return (
        match[1].strip("-").lower() in _COLON_NAMES
        and text[match.start() - 2 : match.start()] != "//"
        and _PORT_HERE.match(text, match.end()) is None
    )


def _value_end(text: str, match: re.Match[str]) -> int:
    """Where an unquoted value ends: a header's with its line, or the quotation mark before it."""
    name, start = match[1], match.end()
    if ":" not in match[2] or not _is_header(name):
        found = _VALUE.match(text, start)
        return start if found is None else found.end()
    before = text[match.start() - 1 : match.start()]
    limit = _found(text, before, start) if before and before in "\"'" else len(text)
    line = _LINE.match(text, start, limit)
    return start if line is None else line.end()


def _found(text: str, what: str, start: int) -> int:
    """Where the next of it is, or the text's end."""
    at = text.find(what, start)
    return len(text) if at < 0 else at


def _dsn_passwords(text: str) -> Iterator[tuple[int, int]]:
    """Where the passwords are of data source names without a scheme."""
    for match in _DSN.finditer(text):
        end = match.start()
        start = max(0, end - _LONGEST_USERINFO)
        start = max((one.end() for one in _BEFORE_DSN.finditer(text, start, end)), default=start)
        _, colon, password = text[start:end].partition(":")
        if colon and password:
            yield end - len(password), end


def _userinfos(text: str) -> Iterator[tuple[int, int]]:
    """Where the passwords are of URLs (RFC 3986, 3.2.1), and the tokens in place of a user."""
    at = text.find("://")
    while at >= 0:
        start = at + len("://")
        end = _userinfo_end(text, start)
        user, colon, password = text[start:end].partition(":")
        if colon and password not in _NOT_A_PASSWORD:
            yield start + len(user) + 1, end
        elif user and (colon or len(user) >= _LONGEST_USER):
            yield start, start + len(user)
        at = text.find("://", max(start, end))


def _userinfo_end(text: str, start: int) -> int:
    """Where the @ is that ends the userinfo; `start` where there is none."""
    found = _AUTHORITY.match(text, start)
    authority_end = start if found is None else found.end()
    end = text.rfind("@", start, authority_end)
    if end >= 0:
        return end
    colon = text.find(":", start, authority_end)
    if colon < 0 or _PORT.fullmatch(text, colon + 1, authority_end):
        return start
    # A password with a slash in it that should have been escaped.
    limit = min(len(text), start + _LONGEST_USERINFO)
    space = _WHITESPACE.search(text, authority_end, limit)
    end = text.rfind("@", authority_end, limit if space is None else space.start())
    return start if end < 0 else end
