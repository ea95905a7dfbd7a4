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
from collections.abc import Callable, Iterator, Sequence
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
        *("passin", "passout", "psk", "pw", "pwd", "signature", "token", "tokens", "userpass"),
        *("dbpass", "rootpass"),
    )
)
_SECRET_ENDINGS: Final = ("token", "pwd", "passwd")
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
# A comma ends a value where another name follows (`-o user=u,password=p,vers=3`).
_VALUE: Final = re.compile(r"""(?:[^\s&"'`,;]|[,;](?![\w.-]{1,64}=))*+""")
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
    r"|hv[bs]\.[\w-]{20,}+"  # Vault
    r")"
)

# --- programs ------------------------------------------------------------------------------------

# One-letter options, by what a program's name begins with. "attached" is -pSECRET alone, where
# `-p` asks for the password or is another option's.
_ATTACHED: Final = {"mysql": "p", "mariadb": "p", "mongo": "p", "sshpass": "p", "ldap": "w"}
_SEPARATE: Final = {
    "ipmitool": "P",
    "ldap": "w",
    "mongo": "p",
    "mosquitto_": "P",
    "redis-cli": "a",
    "sqlcmd": "P",
    "sshpass": "p",
    "valkey-cli": "a",
}
_PROGRAMS: Final = tuple({**_ATTACHED, **_SEPARATE, "curl": ""})
_CURL_USER: Final = re.compile(r"-[A-Za-z#]{0,8}?[uU]|--user|--proxy-user")
_CURL_USER_ATTACHED: Final = re.compile(r"(-[uU]|--user=|--proxy-user=)([^:\s]++:)\S++")

_OPTION: Final = re.compile(r"--?([A-Za-z_][\w.-]*+)")
_LONG_OPTION: Final = re.compile(r"--[A-Za-z][A-Za-z0-9-]*+(?:=.*)?|-[A-Za-z]", re.DOTALL)
_ASSIGNMENT: Final = re.compile(r"-{0,2}([A-Za-z_][\w.-]*+)=")
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
        self._program = ""
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
        follows, self._follows = self._follows, None
        if follows is not None and not _is_option(word):
            return self._following(word, follows)
        assignment = _ASSIGNMENT.match(word)
        if assignment is not None and _is_secret(assignment[1]):
            return assignment[0] + _mask_value(word[assignment.end() :])
        attached = self._attached(word)
        if attached is not None:
            return attached
        self._follows = self._announced(word)
        if self._follows is None and within is not None and _WHITESPACE.search(word):
            word = within(word)
        if not word.startswith("-"):
            self._program = _program(word) or self._program
        return word

    def _following(self, word: str, follows: Callable[[str], str | None]) -> str:
        answer = follows(word)
        if answer is None:
            self._follows = follows
            return word
        if self._quoted and word[0] in "\"'" and word[0] not in word[1:] and answer == MASK:
            self._quote = word[0]
        return answer

    def _announced(self, word: str) -> Callable[[str], str | None] | None:
        """What the word says of the next one."""
        if _header_name(word):
            return _mask_header_word
        if self._program == "curl" and _CURL_USER.fullmatch(word):
            return _mask_after_user
        letters = _SEPARATE.get(self._program, "")
        if len(word) == 2 and word[0] == "-" and word[1] in letters:
            self._program = ""  # `sshpass -p secret ssh -p 22`
            return _mask_value
        option = _OPTION.fullmatch(word)
        return _mask_value if option is not None and _announces_secret(option[1]) else None

    def _attached(self, word: str) -> str | None:
        """The word masked, if it is a one-letter option with its secret; else None."""
        if self._program == "curl":
            user = _CURL_USER_ATTACHED.fullmatch(word)
            return None if user is None else user[1] + user[2] + MASK
        letters = _ATTACHED.get(self._program, "")
        if len(word) > 2 and word[0] == "-" and word[1] in letters:
            self._program = ""
            return word[:2] + MASK
        return None


def _program(word: str) -> str:
    """Which program of the tables the word runs, if any: /usr/bin/mysqldump is "mysql"."""
    name = word.rpartition("/")[2]
    return next((known for known in _PROGRAMS if name.startswith(known)), "")


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


def _announces_secret(name: str) -> bool:
    """Whether the word after the option of this name is likely to be secret."""
    first = _NAME_WORD.search(name)
    return _is_secret(name) and (first is None or first[0].lower() not in _SWITCHING)


def _header_name(word: str) -> bool:
    """Whether the word is `Authorization:` or `Authorization: Bearer`, the rest to follow.

    One in quotation marks has its value in the same text, where _named_values finds it.
    """
    name, colon, scheme = word.partition(":")
    return bool(colon) and scheme.strip().lower() in {"", *_SCHEMES} and _is_header(name)


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


def _mask_after_user(word: str) -> str:
    """`user:password` without the password; a user alone is asked for it."""
    user, colon, password = word.partition(":")
    return f"{user}:{MASK}" if colon and password else word


# --- inside an argument --------------------------------------------------------------------------


def _mask_text(text: str) -> str:
    text = _mask_pem(text)
    text = _replaced(text, _named_values(text))
    text = _replaced(text, _userinfos(text))
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
        if match.start() < done or not _is_named_secret(text, match):
            continue
        start, end = match.end(), _value_end(text, match)
        quote = _QUOTE.match(text, start)
        if quote is not None:
            start = quote.end()
            closing = text.find(quote[0], start)
            end = len(text) if closing < 0 else closing
        if ":" in separator and (scheme := _SCHEME_AND_VALUE.match(text, start, end)):
            start = scheme.end() if scheme[1].strip().lower() in _SCHEMES else start
        # `Authorization: Bearer`, its value in the next argument.
        if ":" in separator and _is_header(name) and text[start:end].lower() in _SCHEMES:
            continue
        done = end
        if text[start:end].lower() not in _HARMLESS_VALUES:
            yield start, end


def _is_named_secret(text: str, match: re.Match[str]) -> bool:
    name, separator = match[1], match[2]
    before = text[match.start() - 1 : match.start()]
    in_query = before in ("?", "&") and name.lower() in _QUERY_NAMES
    if not in_query and not _is_secret(name):
        return False
    bare = separator.strip()
    if bare == "=":
        return not separator[-1].isspace() or separator[0].isspace()
    # `auth:8080` is a host and its port: a colon alone separates a header's name.
    return "=" in bare or len(bare) > 1 or separator[-1].isspace() or _is_header(name)


def _value_end(text: str, match: re.Match[str]) -> int:
    """Where an unquoted value ends: a header's with its line, or the quotation mark before it."""
    name, start = match[1], match.end()
    if ":" not in match[2] or not _is_header(name):
        found = _VALUE.match(text, start)
        return start if found is None else found.end()
    line = _LINE.match(text, start)
    end = start if line is None else line.end()
    before = text[match.start() - 1 : match.start()]
    closing = text.find(before, start, end) if before and before in "\"'" else -1
    return end if closing < 0 else closing


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
