"""The programs that chapter 18 runs on several processes, and what their times say."""
