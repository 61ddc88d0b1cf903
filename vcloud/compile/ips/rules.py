r"""The intrusion rules that vcloud ships, as values, each with the test payload that proves it.

The set is small on purpose: attacks that every application of a few tiers meets, with rules that
are precise enough to drop packets. Patterns expect text that was decoded once: `http.uri.raw;
url_decode` is the whole request target with %XX and + decoded once. In a pattern, `;` `"` and `/`
would end the option, the value or the expression, so they are written \x3b, \x22 and \x2f.

Blocks of sids: 11xxxxx protocols (from 1110000 on for single flows: `vcloud.compile.ips.apps`),
12xxxxx leaks (`vcloud.compile.leaks`), 13xxxxx forms that leak detectors cannot search, 14xxxxx
covert channels, 15xxxxx web, 19xxxxx canary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vcloud.values import App, Protocol

ANY: Final = "any"
VAPP: Final = "$VAPP"
NOT_VAPP: Final = "!$VAPP"
WEB_PORTS: Final = (53, 80, 443, 8080, 8443)
"""Ports of the web and of DNS, which are open in almost every network."""
OWN_APP: Final = "app.own"
"""A flowbit. It marks a connection on one of these ports whose flow has `app: ssh` or `app: other`.
"""


@dataclass(frozen=True, slots=True)
class PayloadPair:
    """A test payload: two harmless messages that prove a rule. `stopped` must be stopped and
    logged; `passed` is much like it and must arrive.
    """

    protocol: Protocol
    stopped: bytes
    passed: bytes
    port: int = 0
    """The only port of the target that the rule applies to; 0: any port."""
    app: App = App.OTHER
    """The protocol of both messages. They cannot be sent on a flow that carries another protocol."""
    request: bytes = b""
    """If not empty, the client sends this request, and the two messages are answers of the server.
    """


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of Suricata, without its action."""

    sid: int
    message: str
    protocol: str
    """Suricata's name of the protocol: `http`, `tls`, `tcp`, ..."""
    source: str
    target: str
    ports: str
    """Of the target."""
    options: str
    """What the rule looks for; each option ends with a semicolon."""
    kind: str
    """Its class in classification.config."""
    source_ports: str = ANY
    """Ports of the source. Set in rules on answers, where the source is the server."""
    metadata: str = ""
    """Ids of the detector or flow that the rule belongs to. A line or a file name would reload the
    rules without need.
    """

    def text(self, action: str) -> str:
        """The rule's line. `action` is `drop` or `alert`."""
        metadata = f" metadata:{self.metadata};" if self.metadata else ""
        return (
            f'{action} {self.protocol} {self.source} {self.source_ports} -> {self.target} {self.ports} (msg:"vcloud: {self.message}"; '
            f"{self.options} classtype:{self.kind};{metadata} sid:{self.sid}; rev:1;)"
        )


@dataclass(frozen=True, slots=True)
class ShippedRule:
    """A rule and the test payload that proves it."""

    rule: Rule
    payload: PayloadPair


def http_request(
    target: str = "/", headers: str = "", body: bytes = b"", method: str = "GET"
) -> bytes:
    """A whole HTTP request. `headers` are lines that end in CRLF. The header for the length of the
    body is added.
    """
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    return (
        f"{method} {target} HTTP/1.1\r\nHost: probe.vcloud\r\n{headers}{length}Connection: close\r\n\r\n".encode()
        + body
    )


def tls_hello(version: int, kind: int) -> bytes:
    """The first record of a TLS client (kind 1) or server (kind 2) that supports no later version
    than this one: 0x0301 is TLS 1.0.
    """
    # A client offers a list with one cipher suite, a server chooses it. No compression.
    ciphers = b"\x00\x02\xc0\x2f" if kind == 1 else b"\xc0\x2f"
    body = (
        version.to_bytes(2, "big")
        + bytes(range(32))
        + b"\x00"
        + ciphers
        + (b"\x01\x00" if kind == 1 else b"\x00")
    )
    handshake = bytes([kind]) + len(body).to_bytes(3, "big") + body
    return b"\x16\x03\x01" + len(handshake).to_bytes(2, "big") + handshake


def dns_query(name: str) -> bytes:
    # Before the labels: an id, the flag for recursion, and the number of questions, 1.
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return b"\x76\x63\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + labels + b"\x00\x00\x01\x00\x01"


def _web(number: int, message: str, options: str, stopped: bytes, passed: bytes) -> ShippedRule:
    """An attack in an HTTP request to a server of the vApp, on any port."""
    rule = Rule(
        1500000 + number,
        message,
        "http",
        ANY,
        VAPP,
        ANY,
        f"flow:established,to_server; {options}",
        "web-application-attack",
    )
    return ShippedRule(rule, PayloadPair(Protocol.TCP, stopped, passed, app=App.HTTP))


def _in_target(
    number: int, message: str, pattern: str, stopped: str, passed: str, contents: str = ""
) -> ShippedRule:
    """An attack in the path or the query. `contents` are strings that every match has: Suricata
    finds them much faster than the pattern.
    """
    return _web(
        number,
        message,
        f'http.uri.raw; url_decode; {contents}pcre:"/{pattern}/iO";',
        http_request(stopped),
        http_request(passed),
    )


def _in_body(
    number: int,
    message: str,
    pattern: str,
    stopped: bytes,
    passed: bytes,
    contents: str = "",
    kind: str = "text/plain",
) -> ShippedRule:
    """An attack in the body of a request."""
    stop, let = (
        http_request("/", f"Content-Type: {kind}\r\n", body, "POST") for body in (stopped, passed)
    )
    return _web(
        number,
        message,
        f'http.request_body; url_decode; {contents}pcre:"/{pattern}/iO";',
        stop,
        let,
    )


def _letter(letter: str) -> str:
    """A letter of a Log4j lookup, plain or wrapped: `j`, `${lower:j}`, `${::-j}`."""
    return rf"(?:{letter}|\$\{{[^{{}}]{{0,40}}[:-]{letter}\}})"


# If a search backtracks too often, Suricata gives up and takes the pattern for not found. So
# quantifiers are possessive, and each pattern has the option O: without O, the limit is 3,500 and
# not the one in suricata.yaml.
_GAP: Final = r"(?:\s|\x2f\*(?s:.{0,40}?)\*\x2f)"
"""What SQL treats as white space, comments included."""
_QUOTE: Final = r"\\?['\x22]"
"""A quote as it is, or escaped as inside a JSON string."""
_SELECT: Final = rf"union(?:{_GAP}++(?:all|distinct)\b)?(?:{_GAP}++|\()\(?{_GAP}*+select\b"
# If no white space comes before `union`, the text may be a phrase in quotes. So the words after
# `select` must look like SQL, too.
_SELECTED: Final = rf"{_GAP}*+(?:[\d@*('\x22]|null\b|\w+{_GAP}*+[,(]|[\w.]+{_GAP}++from\b)"
_SQL_UNION: Final = rf"(?:(?:['\x22)]|\b\d+){_GAP}++{_SELECT}|{_QUOTE}\)*{_SELECT}{_SELECTED})"
_OR: Final = rf"(?:(?:or|and)(?:{_GAP}++|(?=[(\\'\x22]))|(?:\|\||&&){_GAP}*+)\(*{_GAP}*+"
_EQUALS: Final = rf"{_GAP}*+={_GAP}*+"
_SQL_ALWAYS_TRUE: Final = (
    rf"(?:{_QUOTE}{_GAP}*+\)*{_GAP}*+{_OR}(?:({_QUOTE})(\w*)\g{{-2}}{_EQUALS}\g{{-2}}\g{{-1}}(?!\w)|(\w+){_EQUALS}\g{{-1}}(?!\w)|\d+{_EQUALS}\d"
    rf"|(?:true|\d+){_GAP}*+(?:--|#))"
    rf"|(?:^|[=:,(\x2f'\x22])-?\d+\)*{_GAP}*+{_OR}(\d+){_EQUALS}\g{{-1}}(?!\w))"
)
_SQL_STACKED: Final = (
    r"(?:\bpg_sleep\s*\(\s*\d|\bbenchmark\s*\(\s*\d+\s*,|\bwaitfor\s+delay\s+['\x22]|\bxp_cmdshell\b"
    r"|['\x22)\d]\s*\x3b\s*(?:drop|truncate|alter)\s+(?:table|database|schema|role|user)\b)"
)
_SPACE: Final = r"(?:\s|<|\$IFS(?:\$\d)?|\$\{IFS[^}]{0,20}\})++"
"""What a shell treats as a space."""
_COMMAND: Final = (
    rf"\s*(?:\x2f(?:usr\x2f)?bin\x2f)?(?:(?:cat|head|tail|less|more){_SPACE}(?:\.{{0,2}}\x2f|~|\.\w)"
    rf"|(?:wget|curl|fetch){_SPACE}(?:-[\w-]+{_SPACE})*(?:\w+:\x2f\x2f|[\w.-]+[.:\x2f]\w)|(?:ba|da|z|k)?sh{_SPACE}-\w"
    rf"|(?:nc|ncat|netcat){_SPACE}(?:-\w|[\w.-]+{_SPACE}\d)|(?i:powershell(?:\.exe)?\s+(?:[-\x2f]\w|iex\b|invoke-))"
    r"|(?:id|whoami|uname(?:\s+-\w+)?|ls(?:\s+-\w+)?)\s*"
)
# (?-i): a shell tells upper from lower case, and the rule itself has the flag i.
_COMMAND_IN_TARGET: Final = rf"(?-i)(?:[\x3b|`\n]|&&|\$\(){_COMMAND}(?:$|[\x3b|&`)#\n]))"
# A body may also be a text that people wrote: lines that begin with a word, tables with `;` or `|`
# between columns, code in backticks.
_COMMAND_IN_BODY: Final = rf"(?-i)(?:[\x3b|]|(?<=[\w='\x22])`|&&|\$\(){_COMMAND}(?:$|[&)#]|`(?!\s+\w)|\r\n--|[\x3b|]\s*(?:$|[&#'\x22]|\r\n--)))"
_JNDI: Final = r"\$\{" + "".join(map(_letter, "jndi")) + r"\s*:"
_EXECUTABLE_UPLOAD: Final = r"content-disposition:[^\r\n]{0,200}filename\*?=[^\r\n]{0,200}\.(?:php[3-8]?|phtml|phar|jspx?|aspx?|ashx|cgi)[\x22'\x3b\s\x00.]"
_WEB_SHELL: Final = r"<\?(?:php|=).{0,400}?\b(?:eval|assert|system|exec|shell_exec|passthru|popen|proc_open|base64_decode)\s*\("
_CONFIDENTIAL_FILES: Final = (
    r"(?:^|[\x2f\\=])(?:etc[\x2f\\](?:passwd|shadow)|proc[\x2f\\]self[\x2f\\](?:environ|cmdline)|\.git[\x2f\\](?:config|HEAD)|\.env|\.aws[\x2f\\]credentials"
    r"|\.ssh[\x2f\\]id_\w+|wp-config\.php|\.htpasswd)(?:$|[?&#\x00])"
)
_SCANNERS: Final = r"\b(?:sqlmap|nikto|masscan|zgrab|nuclei|dirbuster|gobuster|feroxbuster|wpscan|acunetix|nessus|openvas|w3af|havij|nmap scripting engine)\b"
# `ssl_version` cannot be used here: while a hello has arrived only in part, it gives the version of
# the record, which is always an old one.
_OLD_OFFER: Final = (
    'content:"|16 03|"; startswith; content:"|01|"; offset:5; depth:1; byte_test:2,<,0x0303,9;'
)
_MULTIPART: Final = "multipart/form-data; boundary=vcloud"


def _part(filename: str) -> bytes:
    return f'--vcloud\r\nContent-Disposition: form-data; name="file"; filename="{filename}"\r\n\r\nprobe\r\n--vcloud--\r\n'.encode()


_WEB: Final = (
    _in_target(
        1,
        "SQL injection, UNION SELECT in the URL",
        _SQL_UNION,
        "/?id=1+UNION+SELECT+1",
        "/?q=1+union+selects+1",
        'content:"union"; nocase; ',
    ),
    _in_target(
        2,
        "SQL injection, condition that is always true in the URL",
        _SQL_ALWAYS_TRUE,
        "/?id=1%27+OR+%271%27=%271",
        "/?q=rock+%27n%27+roll+or+1",
    ),
    _in_target(
        3,
        "SQL injection, stacked or delaying statement in the URL",
        _SQL_STACKED,
        "/?id=1%3B+DROP+TABLE+probe",
        "/?q=drop+table+lamps",
    ),
    _in_body(
        4,
        "SQL injection in a body",
        # (?|: each branch numbers its groups from 1. Back references in the patterns are relative.
        f"(?|{_SQL_UNION}|{_SQL_ALWAYS_TRUE}|{_SQL_STACKED})",
        b"user=a'+or+'1'='1",
        b"user=o'hara+or+1",
        kind="application/x-www-form-urlencoded",
    ),
    _in_target(
        10,
        "path traversal",
        r"(?:(?:\.|%2e|%c0%ae){2}(?:[\x2f\\]|%2f|%5c|%c0%af)){2}",
        "/probe/..%2f..%2fprobe",
        "/probe/..%2fprobe/...html",
    ),
    _in_target(
        11,
        "file that holds secrets",
        _CONFIDENTIAL_FILES,
        "/probe?file=/etc/passwd",
        "/probe?file=/etc/passwords.html",
    ),
    _in_target(
        20,
        "shell command in the URL",
        _COMMAND_IN_TARGET,
        "/probe?host=a%3Bcat+/probe",
        "/probe?host=a%3Bcats",
    ),
    _in_body(
        21,
        "shell command in a body",
        _COMMAND_IN_BODY,
        b"host=a;cat+/probe",
        b"host=a; cat food",
        kind="application/x-www-form-urlencoded",
    ),
    _in_target(
        30,
        "Log4j lookup in the URL",
        _JNDI,
        "/?q=$%7Bjndi:probe%7D",
        "/?q=$%7Bjnd:probe%7D",
        'content:"${"; ',
    ),
    _web(
        31,
        "Log4j lookup in a header",
        f'http.header.raw; content:"${{"; pcre:"/{_JNDI}/iO";',
        http_request("/", "X-Probe: ${${lower:j}ndi:probe}\r\n"),
        http_request("/", "X-Probe: ${lower:jndi}\r\n"),
    ),
    _in_body(
        32, "Log4j lookup in a body", _JNDI, b"q=${jndi:probe}", b"q=${jnd:probe}", 'content:"${"; '
    ),
    _web(
        40,
        "Shellshock",
        r'http.header.raw; content:"() {"; pcre:"/:\s*\(\)\s*\{[^}\r\n]*\}\s*\x3b/O";',
        http_request("/", "X-Probe: () { :; }; probe\r\n"),
        http_request("/", "X-Probe: f() { probe }\r\n"),
    ),
    _in_body(
        50,
        "upload of a program",
        _EXECUTABLE_UPLOAD,
        _part("probe.php"),
        _part("probe.png"),
        'content:"filename"; nocase; ',
        _MULTIPART,
    ),
    _in_body(
        51,
        "web shell",
        rf"(?s){_WEB_SHELL}",
        b"<?php system('probe'); ?>",
        b"<?php echo 'probe'; ?>",
        'content:"<?"; ',
    ),
    _web(
        60,
        "scanner",
        f'http.user_agent; pcre:"/{_SCANNERS}/iO";',
        http_request("/", "User-Agent: sqlmap/1.8 (probe)\r\n"),
        http_request("/", "User-Agent: Mozilla/5.0 (probe)\r\n"),
    ),
    _web(
        70,
        "request smuggling, two lengths",
        r'http.header.raw; content:"Transfer-Encoding"; nocase; pcre:"/^Content-Length[ \t]*:/miO"; pcre:"/^Transfer-Encoding[ \t]*:/miO";',
        http_request("/", "Transfer-Encoding: chunked\r\n", b"0\r\n\r\n", "POST"),
        http_request("/", "X-Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", method="POST")
        + b"0\r\n\r\n",
    ),
    _web(
        71,
        "request smuggling, disguised transfer encoding",
        r'http.header.raw; content:"Transfer-Encoding"; nocase; pcre:"/^[ \t]*Transfer-Encoding(?!:[ \t]*(?:(?:gzip|deflate),[ \t]*)?chunked[ \t]*\r?$)[ \t]*:/miO";',
        http_request("/", "Transfer-Encoding : chunked\r\n", method="POST") + b"0\r\n\r\n",
        http_request("/", "Transfer-Encoding: chunked\r\n", method="POST") + b"0\r\n\r\n",
    ),
    _in_body(
        80,
        "XML external entity",
        r"<!ENTITY\s+(?:%\s+)?[\w.-]+\s+(?:SYSTEM|PUBLIC)\s",
        b'<!DOCTYPE p [<!ENTITY p SYSTEM "probe">]>',
        b'<!DOCTYPE p [<!ENTITY p "SYSTEM probe">]>',
        'content:"<!ENTITY"; nocase; ',
        "application/xml",
    ),
    _in_target(
        81,
        "request for the cloud's metadata service",
        r"(?:169\.254\.169\.254|metadata\.google\.internal)",
        "/?url=http://169.254.169.254/",
        "/?url=http://169.254.169.25/",
    ),
    _in_target(
        82,
        "script in the URL",
        r"<script[\s>\x2f]",
        "/?q=%3Cscript%3Eprobe",
        "/?q=%3Cscripted+probe",
    ),
    _in_body(
        83,
        "access to the Java class loader",
        r"(?:^|[&?.])class\.module\.classLoader\b",
        b"class.module.classLoader.p=1",
        b"class.module.p=1",
        'content:"classLoader"; nocase; ',
    ),
    _web(
        84,
        "serialised Java object",
        'http.request_body; content:"|ac ed 00 05|"; startswith;',
        http_request(
            "/", "Content-Type: application/octet-stream\r\n", b"\xac\xed\x00\x05probe", "POST"
        ),
        http_request(
            "/", "Content-Type: application/octet-stream\r\n", b"probe\xac\xed\x00\x05", "POST"
        ),
    ),
    _web(
        90,
        "TRACE request",
        'http.method; pcre:"/^(?:TRACE|TRACK)$/O";',
        http_request(method="TRACE"),
        http_request(method="OPTIONS"),
    ),
)

_PROTOCOL: Final = (
    ShippedRule(
        Rule(
            1100001,
            "TLS older than 1.2 offered",
            "tls",
            ANY,
            ANY,
            ANY,
            f"flow:established,to_server; {_OLD_OFFER}",
            "protocol-command-decode",
        ),
        PayloadPair(Protocol.TCP, tls_hello(0x0301, 1), tls_hello(0x0303, 1), app=App.TLS),
    ),
    ShippedRule(
        Rule(
            1100004,
            "SSH on a port of the web or of DNS",
            "ssh",
            ANY,
            ANY,
            f"[{','.join(map(str, WEB_PORTS))}]",
            f"flow:established,to_server; flowbits:isnotset,{OWN_APP};",
            "policy-violation",
        ),
        PayloadPair(Protocol.TCP, b"SSH-2.0-probe\r\n", http_request(), port=8080),
    ),
    ShippedRule(
        # The longest names in normal use have about 80 characters. A tunnel uses most of the 253
        # that a name may have.
        Rule(
            1400001,
            "tunnel in DNS names",
            "dns",
            VAPP,
            ANY,
            ANY,
            "dns.query; bsize:>150;",
            "policy-violation",
        ),
        PayloadPair(
            Protocol.UDP,
            dns_query(".".join(["probe" * 10] * 4)),
            dns_query(".".join(["probe" * 10] * 2)),
            port=53,
        ),
    ),
)

CANARY: Final = ShippedRule(
    Rule(
        1900001,
        "canary",
        "http",
        ANY,
        ANY,
        ANY,
        'flow:established,to_server; http.header; content:"X-Vcloud-Canary|3a 20|stop|0d 0a|";',
        "vcloud-canary",
    ),
    PayloadPair(
        Protocol.TCP,
        http_request("/", "X-Vcloud-Canary: stop\r\n"),
        http_request("/", "X-Vcloud-Canary: pass\r\n"),
        app=App.HTTP,
    ),
)
"""Detects no attack and matches only its own test payload. When it fires, the IPS is in the path
and has its rules.
"""

SHIPPED: Final = (*_PROTOCOL, *_WEB, CANARY)
