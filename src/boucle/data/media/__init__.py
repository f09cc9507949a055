"""Files that are no tables, as rows: what each holds by its content, what can be told of it, and its bytes by reference.

Pictures, sounds, videos and documents become a table with one row per file. The bytes are blobs of the workspace; a row has their
digest, and `opened`, `image`, `audio` and `frames` give the content when it is asked for.
"""

from __future__ import annotations

from boucle.data.media.content import audio as audio
from boucle.data.media.content import contents as contents
from boucle.data.media.content import frames as frames
from boucle.data.media.content import image as image
from boucle.data.media.content import opened as opened
from boucle.data.media.content import text as text
from boucle.data.media.rows import joined as joined
from boucle.data.media.rows import table as table
