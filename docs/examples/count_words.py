#!/usr/bin/env python3
"""A declared tool: arguments as JSON on stdin, the result as JSON on stdout."""

import collections
import json
import sys

arguments = json.load(sys.stdin)
words = arguments["text"].lower().split()
most = collections.Counter(words).most_common(arguments.get("most", 3))
json.dump({"words": len(words), "most": most}, sys.stdout)
