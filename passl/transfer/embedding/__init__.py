"""Features of images as a file of arrays: `work.embed` makes them, `command` is the command line. Importing this
package needs no Paddle."""
