"""What Slurm prints of partitions and nodes, recorded on Slurm 22.05; its accounts are made up."""

PARTITIONS = """\
PartitionName=main AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL AllocNodes=ALL Default=YES \
QoS=N/A DefaultTime=NONE DisableRootJobs=NO MaxNodes=UNLIMITED MaxTime=UNLIMITED MinNodes=0 \
Nodes=n[1-3] PriorityTier=1 OverSubscribe=NO PreemptMode=OFF State=UP TotalCPUs=24 TotalNodes=3
PartitionName=gpu-h200 AllowGroups=ALL AllowAccounts=chemistry,robotics DenyQos=test Default=NO \
QoS=gpu DefaultTime=01:00:00 MaxNodes=4 MaxTime=2-00:00:00 MinNodes=0 Nodes=g[01-12] State=DRAIN \
AllowQos=normal,preemptible TotalCPUs=768 TotalNodes=12
"""
SINFO = """\
main|up|infinite|8|4000|1|gpu:h100:2
main|up|infinite|8+|4000+|2|gpu:h200:2(S:0-1),nvme:1
gpu-h200|drain|2-00:00:00|64|1031000|12|gpu:h200:8(S:0-1)
"""
