"""Running a job: plan, put in force, process, finish.

Owns the order of a run, the scheduler (pure logic: which places next, what after a lost worker), the limits that stop
a run, and every decision that the holder of the lock makes: the job's columns, the commits. It must not know how
workers are carried (processes, Ray), nor open a file of the user.
"""
