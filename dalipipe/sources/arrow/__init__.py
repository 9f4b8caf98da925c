"""Arrow tables by random access: blocks of rows, in memory or in Parquet and IPC files; columns gathered from them."""
