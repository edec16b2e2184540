"""Shell rules: for each program, what it may be told and what not, as a table."""

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.toolbus.arguments import options, read_words
from appliance.toolbus.base import ToolFailed
from appliance.toolbus.shell_rules import rule_of

ALLOWED = """
rg needle
rg -n -i 'a|b' src
rg --pretty --pre-glob x needle
rg --hidden needle
find . -name x -type f
find . -maxdepth 2 -newer y -print0
fd needle -e py
sort -n -k2,2 f
sort --reverse --key=2 f
sort --check f
uniq -c
uniq -f3 in
sed -n 1,5p f
sed -ne 's/a/b/p' f
sed -e s/a/b/ -e s/c/d/ f
sed --expression=s/a/b/ f
sed -E 's/(a|b)/c/' f
awk '{print $1}' f
awk -F : '{print $1}' f
awk -F: -v x=1 '$1 == x || $2 {n++} END {print n}' f
tar -tf a.tar
tar -tvzf a.tgz
tar -xOf a.tar member
tar --list --file=a.tar
tar -xO --file a.tar
date +%s
date --utc
file -b f
diff3 a b c
sdiff a b
jq .a f
tree -L 2
shuf -n 3 f
iconv -f latin1 -t utf8 f
xxd -l16 f
yq .a f
"""

REFUSED = """
rg --pre cat needle
rg --pre=cat needle
rg --pr=cat needle
rg --hostname-bin=x needle
rg -z needle
rg -iz needle
rg --search-zip needle
rg --search needle
rg -- --pre=cat
find . -exec id {} ;
find . -execdir id {} ;
find . -ok id {} ;
find . -okdir id {} ;
find . -delete
find . -fprint f
find . -fprint0 f
find . -fprintf f %p
find . -fls f
find . -name x -o -delete
fd needle -x rm
fd needle -X rm
fd --exec rm
fd --exec-batch=rm
fd -l
sort -o f f
sort -of f
sort -uof f
sort -no f
sort --output=f
sort --output f
sort --out=f
sort --o f
sort --compress-program=sh f
sort --compress-prog=sh f
sort --comp sh f
sort -T /tmp f
sort --temp=/tmp f
sort f -o f
sort -- -o f
uniq in out
uniq - out
uniq -c in out
sed -i s/a/b/ f
sed -i.bak s/a/b/ f
sed -ni s/a/b/p f
sed --in-place s/a/b/ f
sed --in-pl=x s/a/b/ f
sed -f script f
sed -nf script f
sed --file=script
sed -e -i f
sed -- -i
sed --debug p f
awk 'BEGIN{system("id")}'
awk 'BEGIN{print 1 > "f"}'
awk 'BEGIN{print 1 >> "f"}'
awk 'BEGIN{print 1 | "sh"}'
awk 'BEGIN{"id" | getline}'
awk 'BEGIN{getline x < "f"}'
awk 'BEGIN{f="sys" "tem"; @f("id")}'
awk '@load "filefuncs"'
awk '@include "f"'
awk 'BEGIN{print "x" |& "sh"}'
awk -f script f
awk -fscript f
awk -i inplace 1 f
awk -l ext 1
awk -E script
awk --source=1
awk -e 1
awk -W exec f
awk 1 /inet/tcp/0/localhost/80
awk 'BEGIN{ARGV[1]="x"}'
awk -F -f script
tar -cf a.tar f
tar -xf a.tar
tar -xvf a.tar
tar xf a.tar
tar tf a.tar
tar -tf a.tar -I sh
tar -tf a.tar --use-compress-program=sh
tar -tf a.tar --use=sh
tar -xOf a.tar --to-command=sh
tar -xOf a.tar --checkpoint=1 --checkpoint-action=exec=sh
tar -tf a.tar --rsh-command=sh
tar -tf a.tar -F sh
tar -tf a.tar --info-script=sh
tar -xf -O a
tar -xf a --exclude -O
tar -xOf a.tar -C /
tar -tf a.tar --index-file=x
tar -rf a.tar f
tar --delete -f a.tar f
tar
date -s 2020-01-01
date --set=2020-01-01
date --se 2020-01-01
file -C -m x
file -z f
file --compile
diff3 --diff-program=sh a b c
diff3 --diff-prog sh a b c
sdiff -o f a b
sdiff --output=f a b
tree -o f
tree -R
shuf -o f
shuf --output=f
iconv -o f
iconv --output=f
xxd -r in out
jq -L dir .
yq -i .a f
xmllint --output f g
sh -c id
bash -c id
busybox sh
env id
xargs id
nohup id
nice id
timeout 1 id
setsid id
sudo id
ssh host
python3 -c 1
python3.11 x.py
perl -e 1
perl5.36 -e 1
node -e 1
ruby x
vim f
less f
man ls
make
gcc f.c
x86_64-linux-gnu-gcc-12 f.c
docker run x
curl http://x
ld-linux-x86-64.so.2 /bin/sh
git-upload-pack .
sqlite3 f
lua5.4 x
prlimit id
strace id
"""


def apply(line: str) -> tuple[str, ...]:
    program, *words = shlex.split(line)
    rule = rule_of(program)
    assert rule is not None, "a program of the table has a rule"
    return tuple(rule(program, words))


@pytest.mark.parametrize("line", ALLOWED.strip().splitlines())
def test_what_only_looks_on_is_allowed(line: str) -> None:
    words = shlex.split(line)[1:]
    assert apply(line)[-len(words) :] == tuple(words)


@pytest.mark.parametrize("line", REFUSED.strip().splitlines())
def test_what_runs_programs_or_writes_is_refused(line: str) -> None:
    with pytest.raises(ToolFailed) as caught:
        apply(line)
    assert caught.value.kind in {"argument_refused", "command_not_allowed"}
    assert len(caught.value.message) < 300


def test_sed_gets_its_own_sandbox_and_tar_takes_no_host() -> None:
    assert apply("sed p f") == ("--sandbox", "p", "f")
    assert apply("tar -tf host:f") == ("--force-local", "-tf", "host:f")


@pytest.mark.parametrize("name", ["ls", "cat", "bzip2", "sha256sum", "base64", "7z", "grep", "nl", "ip6tables"])
def test_other_programs_have_no_rule(name: str) -> None:
    assert rule_of(name) is None


def test_a_program_by_another_name_has_the_rule_of_what_it_leads_to() -> None:
    assert rule_of("search", "rg") is rule_of("rg")
    with pytest.raises(ToolFailed):
        rule_of("awk", "busybox")("awk", ["1"])  # type: ignore[misc] -- it has one


OPTIONS = options("-a -b --all --brief", "-n --num", "-c --color", counts=True)
KNOWN = OPTIONS.flags | OPTIONS.valued | OPTIONS.optional
WORDS = st.lists(
    st.sampled_from(
        ["-a", "-ab", "-an5", "-n", "-n5", "--num", "--num=1", "--color", "--color=x", "-cx", "x", "-", "--"]
    )
    | st.text(st.sampled_from("-abcnx=5"), max_size=5),
    max_size=5,
)


@given(WORDS)
def test_every_word_is_an_operand_a_value_or_a_known_option(words: list[str]) -> None:
    try:
        found = read_words("p", words, OPTIONS)
    except ToolFailed:
        return
    assert found.options <= KNOWN
    dashed = [word for word in words if word.startswith("-") and word not in {"-", "--"}]
    for word in dashed:
        name = word.partition("=")[0]
        assert name in KNOWN if name.startswith("--") else word[:2] in KNOWN or word[1:].isdigit()
    assert not [operand for operand in found.operands if operand.startswith("-") and operand != "-"]
    assert len(found.operands) + len(dashed) <= len(words)


@pytest.mark.parametrize("word", ["--al", "--all=1", "-x", "-ax", "--num-x", "--", "-5x", "-\u0665", "---"])
def test_abbreviations_unknown_options_and_stray_values_are_refused(word: str) -> None:
    if word == "--":
        assert read_words("p", ["--", "x"], OPTIONS).operands == ("x",)
        word = "-n"
    with pytest.raises(ToolFailed):
        read_words("p", [word, "-a"] if word == "-n" else [word], OPTIONS)
