"""Files and streams of pictures and sound: what they are, what they give, what they take."""
